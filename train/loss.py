"""The objectives: pure functions, errors in, one loss per pair out; `_w` is preferred, `_l` rejected.

Every objective sees the same four numbers of a pair, its squared prediction errors under policy and
reference, which share timestep and noise. A further objective is one more function in OBJECTIVES.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from train.config import Objective


@dataclass(frozen=True)
class PairErrors:
    """Mean squared prediction errors of a batch of pairs, each of shape (pair,)."""

    policy_w: Float[Tensor, " pair"]
    policy_l: Float[Tensor, " pair"]
    reference_w: Float[Tensor, " pair"]
    reference_l: Float[Tensor, " pair"]

    @property
    def policy_margin(self) -> Float[Tensor, " pair"]:
        """How much better the policy predicts the preferred image."""
        return self.policy_l - self.policy_w

    @property
    def reference_margin(self) -> Float[Tensor, " pair"]:
        """The same of the frozen reference."""
        return self.reference_l - self.reference_w


def prediction_mse(
    prediction: Float[Tensor, "image channel height width"],
    target: Float[Tensor, "image channel height width"],
) -> Float[Tensor, " image"]:
    """m of Diffusion-DPO: the mean over C, H, W of (prediction - target)^2, in float32 or wider."""
    widest = torch.promote_types(prediction.dtype, torch.float32)
    return (prediction.to(widest) - target.to(widest)).square().mean(dim=(1, 2, 3))


def diffusion_dpo_loss(errors: PairErrors, beta: float) -> Float[Tensor, " pair"]:
    """Per-pair Diffusion-DPO loss (arXiv 2311.12908, eq. 14).

    loss = -log sigmoid(-beta / 2 * ((m_w - m_l) - (r_w - r_l))), m of the policy, r of the reference;
    m is a mean over C, H, W where the paper takes a squared norm, so beta / 2 stands for the paper's
    beta * T * omega(lambda_t) times the number of latent values.
    beta: KL strength, dimensionless; the factor 1/2 is applied here, as in SalesforceAIResearch/DiffusionDPO
    (train.py, line 1142). diffusers' LoRA script leaves the 1/2 out: its beta 2500 is 5000 here.
    """
    return -F.logsigmoid(0.5 * beta * (errors.policy_margin - errors.reference_margin))


def implicit_accuracy(errors: PairErrors) -> Bool[Tensor, " pair"]:
    """Whether the policy leans to the preferred image more than the reference: DPO loss below ln 2."""
    return errors.policy_margin > errors.reference_margin


OBJECTIVES: dict[str, Callable[[PairErrors, Objective], Tensor]] = {
    "dpo": lambda errors, objective: diffusion_dpo_loss(errors, objective.beta),
}


def pair_loss(errors: PairErrors, objective: Objective) -> Float[Tensor, " pair"]:
    """The loss of each pair under the objective that the recipe names."""
    return OBJECTIVES[objective.name](errors, objective)
