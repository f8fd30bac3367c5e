"""The objectives: pure functions, errors in, one loss per pair out; `_w` is preferred, `_l` rejected.

Every objective sees the same four numbers of a pair, its squared prediction errors under policy (m) and
reference (r), which share timestep and noise; a log-likelihood stands as -beta / 2 * m. A further objective
is one more function in OBJECTIVES.
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
    """Mean squared prediction errors of a batch of pairs, each of shape (pair,); NaN what was not computed.

    drift: the mean squared difference of the policy's prediction from the reference's, over both images. The
    KL divergence of policy from reference at a denoising step is proportional to it (arXiv 2311.12908, eq. 12).
    """

    policy_w: Float[Tensor, " pair"]
    policy_l: Float[Tensor, " pair"]
    reference_w: Float[Tensor, " pair"]
    reference_l: Float[Tensor, " pair"]
    drift: Float[Tensor, " pair"] | None = None

    @property
    def policy_margin(self) -> Float[Tensor, " pair"]:
        """How much better the policy predicts the preferred image."""
        return self.policy_l - self.policy_w

    @property
    def reference_margin(self) -> Float[Tensor, " pair"]:
        """The same of the frozen reference."""
        return self.reference_l - self.reference_w


def prediction_mse(
    prediction: Float[Tensor, "image channel height width"], target: Float[Tensor, "image channel height width"]
) -> Float[Tensor, " image"]:
    """m of Diffusion-DPO: the mean over C, H, W of (prediction - target)^2, in float32 or wider."""
    widest = torch.promote_types(prediction.dtype, torch.float32)
    return (prediction.to(widest) - target.to(widest)).square().mean(dim=(1, 2, 3))


def reward_margin(errors: PairErrors, beta: float) -> Float[Tensor, " pair"]:
    """h = -beta / 2 * ((m_w - m_l) - (r_w - r_l)), what the pairwise objectives are functions of.

    The implicit reward of the preferred image less that of the rejected one: beta times the difference of
    their log-ratios of policy to reference, as Diffusion-DPO estimates it (arXiv 2311.12908, eq. 14).
    beta: KL strength, dimensionless; the factor 1/2 is applied here, as in SalesforceAIResearch/DiffusionDPO
    (train.py, line 1142) and diffusers' train_diffusion_dpo_sdxl.py (line 1039). Only diffusers' script for SD1.5,
    train_diffusion_dpo.py (line 880), leaves the 1/2 out: its beta 2500 is 5000 here.
    """
    return 0.5 * beta * (errors.policy_margin - errors.reference_margin)


def diffusion_dpo_loss(
    errors: PairErrors, beta: float, offsets: Float[Tensor, " pair"] | None = None
) -> Float[Tensor, " pair"]:
    """Per-pair Diffusion-DPO loss (arXiv 2311.12908, eq. 14): -log sigmoid(h), h as `reward_margin` gives it.

    m is a mean over C, H, W where the paper takes a squared norm, so beta / 2 stands for the paper's
    beta * T * omega(lambda_t) times the number of latent values.
    offsets: how much larger than zero h should be for each pair: -log sigmoid(h - offset) (arXiv 2402.10571).

    >>> half = torch.tensor([0.5])
    >>> diffusion_dpo_loss(PairErrors(half, half, half, half), beta=5000.0)  # the policy is the reference: ln 2
    tensor([0.6931])
    """
    margin = reward_margin(errors, beta)
    return -F.logsigmoid(margin if offsets is None else margin - offsets)


def cdpo_loss(
    errors: PairErrors, beta: float, label_smoothing: float | Float[Tensor, " pair"]
) -> Float[Tensor, " pair"]:
    """DPO whose labels are wrong with probability s = `label_smoothing` (Mitchell 2023, conservative DPO).

    loss = -(1 - s) log sigmoid(h) - s log sigmoid(-h); least at h = log((1 - s) / s), where DPO has no least.
    s: one for all pairs, or each pair's own.
    """
    margin = reward_margin(errors, beta)
    return -(1 - label_smoothing) * F.logsigmoid(margin) - label_smoothing * F.logsigmoid(-margin)


def ipo_loss(errors: PairErrors, beta: float) -> Float[Tensor, " pair"]:
    """IPO (arXiv 2310.12036, eq. 17), its tau being beta: loss = (h - 1/2)^2.

    h / beta is IPO's difference of log-ratios, which should become 1 / (2 tau); the paper's square is taken
    times beta^2, which moves no minimum and leaves gradients at DPO's size, so that clipping means the same.
    """
    return (reward_margin(errors, beta) - 0.5).square()


def slic_hf_loss(errors: PairErrors, beta: float, hinge: float, sft_weight: float) -> Float[Tensor, " pair"]:
    """SLiC-HF: loss = max(0, hinge - h) + sft_weight * m_w (arXiv 2305.10425, its two terms).

    Likelihoods are taken relative to the reference (arXiv 2309.06657, the normalised hinge): the errors of
    two images at one timestep differ by far more than training moves them.
    """
    return F.relu(hinge - reward_margin(errors, beta)) + sft_weight * errors.policy_w


def orpo_loss(errors: PairErrors, odds_weight: float) -> Float[Tensor, " pair"]:
    """ORPO (arXiv 2403.07691, eq. 6 and 7): loss = m_w - odds_weight * log sigmoid(o_w - o_l).

    o = log(P / (1 - P)) are log-odds; ORPO's P is a mean likelihood per token, so here P = exp(-m), per
    latent value, and o = -log(exp(m) - 1). Neither the reference nor beta takes part.
    """
    smallest = torch.finfo(errors.policy_w.dtype).tiny  # an error of exactly 0 has no finite odds
    odds_w, odds_l = (-torch.expm1(m).clamp_min(smallest).log() for m in (errors.policy_w, errors.policy_l))
    return errors.policy_w - odds_weight * F.logsigmoid(odds_w - odds_l)


def sft_loss(errors: PairErrors) -> Float[Tensor, " pair"]:
    """Plain fine-tuning on the preferred image: loss = m_w (arXiv 2006.11239, eq. 14)."""
    return errors.policy_w


def implicit_accuracy(errors: PairErrors) -> Bool[Tensor, " pair"]:
    """Whether the policy leans to the preferred image more than the reference: DPO loss below ln 2."""
    return errors.policy_margin > errors.reference_margin


OfPairs = Tensor | None
OBJECTIVES: dict[str, Callable[[PairErrors, Objective, OfPairs, OfPairs], Tensor]] = {  # offsets, smoothings
    "dpo": lambda errors, o, offsets, _: diffusion_dpo_loss(errors, o.beta, offsets),
    "cdpo": lambda errors, o, _, own: cdpo_loss(errors, o.beta, o.label_smoothing if own is None else own),
    "ipo": lambda errors, o, *_: ipo_loss(errors, o.beta),
    "slic-hf": lambda errors, o, *_: slic_hf_loss(errors, o.beta, o.hinge, o.sft_weight),
    "orpo": lambda errors, o, *_: orpo_loss(errors, o.odds_weight),
    "sft": lambda errors, *_: sft_loss(errors),
}


def pair_loss(
    errors: PairErrors,
    objective: Objective,
    weights: Float[Tensor, " pair"] | None = None,
    offsets: Float[Tensor, " pair"] | None = None,
    smoothings: Float[Tensor, " pair"] | None = None,
) -> Float[Tensor, " pair"]:
    """The loss of each pair under the objective that the recipe names, times the pair's weight if it has one."""
    losses = OBJECTIVES[objective.name](errors, objective, offsets, smoothings)
    return losses if weights is None else losses * weights
