"""A batch to the squared errors of policy and reference, one forward of each, and what the log tells of them."""

import torch
from torch import Tensor

from train.config import Objective
from train.data.latents import Batch
from train.model.families import Scheduler, add_noise, denoise
from train.model.policy import Reference
from train.objectives import PairErrors, implicit_accuracy, prediction_mse


def pair_errors(
    policy: torch.nn.Module,
    reference: Reference,
    scheduler: Scheduler,
    batch: Batch,
    objective: Objective | None = None,
) -> PairErrors:
    """Squared errors of policy and reference on both sides: one forward of 2 * pair images each.

    objective: what it does not use is not computed, and is NaN.
    """
    rejected, referred = objective is None or objective.uses_rejected, objective is None or objective.uses_reference
    noisy, target, timesteps = add_noise(scheduler, *batch.both_sides())
    conditioning, pairs = batch.conditioning, len(batch.timesteps)
    if not rejected:  # the preferred images come first
        noisy, target, timesteps = noisy[:pairs], target[:pairs], timesteps[:pairs]
        conditioning = conditioning.mapped(lambda part: part[:pairs])
    unknown = torch.full((2 * pairs,), torch.nan, device=noisy.device)
    reference_mse, drift = unknown, unknown[:pairs]
    if referred:
        with torch.no_grad(), reference() as frozen:
            expected = denoise(frozen, noisy, timesteps, conditioning)
            reference_mse = prediction_mse(expected, target)
    predicted = denoise(policy, noisy, timesteps, conditioning)
    policy_mse = prediction_mse(predicted, target)
    if referred:
        drift = prediction_mse(predicted.detach(), expected).unflatten(0, (2, -1)).mean(0)
    policy_w, policy_l = policy_mse.chunk(2) if rejected else (policy_mse, unknown[:pairs])
    reference_w, reference_l = reference_mse.chunk(2)
    return PairErrors(policy_w, policy_l, reference_w, reference_l, drift)


def pair_metrics(errors: PairErrors, losses: Tensor) -> dict[str, Tensor]:
    """What the log tells of each pair, by name: float32, on the device and without gradient; NaN where not known."""
    known = (errors.policy_margin - errors.reference_margin).isfinite()
    metrics = {
        "loss": losses,
        "policy_mse_preferred": errors.policy_w,
        "policy_mse_rejected": errors.policy_l,
        "reference_mse_preferred": errors.reference_w,
        "reference_mse_rejected": errors.reference_l,
        "policy_margin": errors.policy_margin,
        "reference_margin": errors.reference_margin,
        "implicit_accuracy": torch.where(known, implicit_accuracy(errors).float(), torch.nan),
        "drift": torch.zeros_like(losses) if errors.drift is None else errors.drift,
    }
    return {name: values.detach().float() for name, values in metrics.items()}
