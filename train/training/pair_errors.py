"""A batch to the squared errors of policy and reference: one forward of each."""

import torch

from train.data.latents import Batch
from train.model.families import Scheduler, add_noise, denoise
from train.model.policy import Reference
from train.objectives import PairErrors, prediction_mse


def pair_errors(policy: torch.nn.Module, reference: Reference, scheduler: Scheduler, batch: Batch) -> PairErrors:
    """Squared errors of policy and reference on both sides: one forward of 2 * pair images each."""
    noisy, target, timesteps = add_noise(scheduler, *batch.both_sides())
    with torch.no_grad(), reference() as frozen:
        expected = denoise(frozen, noisy, timesteps, batch.conditioning)
        reference_mse = prediction_mse(expected, target)
    predicted = denoise(policy, noisy, timesteps, batch.conditioning)
    policy_mse = prediction_mse(predicted, target)
    drift = prediction_mse(predicted.detach(), expected).unflatten(0, (2, -1)).mean(0)
    policy_w, policy_l = policy_mse.chunk(2)
    reference_w, reference_l = reference_mse.chunk(2)
    return PairErrors(policy_w, policy_l, reference_w, reference_l, drift)
