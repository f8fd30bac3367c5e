"""The objectives: pure functions, errors in, one loss per pair out; `_w` is preferred, `_l` rejected.

Every objective sees the same four numbers of a pair, its squared prediction errors under policy (m) and
reference (r), which share timestep and noise; a log-likelihood stands as -beta / 2 * m. A further objective
is one more function in OBJECTIVES.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from train.config import Objective


@dataclass(frozen=True)
class PairErrors:
    """Mean squared prediction errors of a batch of pairs, each of shape (pair,); NaN what was not computed.

    drift: the mean squared difference of the policy's prediction from the reference's, over both images. The
    KL divergence of policy from reference at a denoising step is proportional to it (arXiv 2311.12908, eq. 12).
    drift_w: of the preferred image alone. alignment: the mean product of the policy's errors on both images.
    policy_square, reference_square: mean squares of the predictions themselves, over both images.
    """

    policy_w: Float[Tensor, " pair"]
    policy_l: Float[Tensor, " pair"]
    reference_w: Float[Tensor, " pair"]
    reference_l: Float[Tensor, " pair"]
    drift: Float[Tensor, " pair"] | None = None
    drift_w: Float[Tensor, " pair"] | None = None
    alignment: Float[Tensor, " pair"] | None = None
    policy_square: Float[Tensor, " pair"] | None = None
    reference_square: Float[Tensor, " pair"] | None = None

    @property
    def policy_margin(self) -> Float[Tensor, " pair"]:
        """How much better the policy predicts the preferred image."""
        return self.policy_l - self.policy_w

    @property
    def reference_margin(self) -> Float[Tensor, " pair"]:
        """The same of the frozen reference."""
        return self.reference_l - self.reference_w


Beta = float | Float[Tensor, " pair"]  # one for all pairs, or each pair's own


def prediction_mse(
    prediction: Float[Tensor, "image channel height width"], target: Float[Tensor, "image channel height width"]
) -> Float[Tensor, " image"]:
    """m of Diffusion-DPO: the mean over C, H, W of (prediction - target)^2, in float32 or wider."""
    widest = torch.promote_types(prediction.dtype, torch.float32)
    return (prediction.to(widest) - target.to(widest)).square().mean(dim=(1, 2, 3))


def reward_margin(errors: PairErrors, beta: Beta) -> Float[Tensor, " pair"]:
    """h = -beta / 2 * ((m_w - m_l) - (r_w - r_l)), what the pairwise objectives are functions of.

    The implicit reward of the preferred image less that of the rejected one: beta times the difference of
    their log-ratios of policy to reference, as Diffusion-DPO estimates it (arXiv 2311.12908, eq. 14).
    beta: KL strength, dimensionless; the factor 1/2 is applied here, as in SalesforceAIResearch/DiffusionDPO
    (train.py, line 1142) and diffusers' train_diffusion_dpo_sdxl.py (line 1039). Only diffusers' script for SD1.5,
    train_diffusion_dpo.py (line 880), leaves the 1/2 out: its beta 2500 is 5000 here.
    """
    return 0.5 * beta * (errors.policy_margin - errors.reference_margin)


def diffusion_dpo_loss(
    errors: PairErrors, beta: Beta, offsets: Float[Tensor, " pair"] | None = None
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


def cdpo_loss(errors: PairErrors, beta: Beta, label_smoothing: Beta) -> Float[Tensor, " pair"]:
    """DPO whose labels are wrong with probability s = `label_smoothing` (Mitchell 2023, conservative DPO).

    loss = -(1 - s) log sigmoid(h) - s log sigmoid(-h); least at h = log((1 - s) / s), where DPO has no least.
    s: one for all pairs, or each pair's own.
    """
    margin = reward_margin(errors, beta)
    return -(1 - label_smoothing) * F.logsigmoid(margin) - label_smoothing * F.logsigmoid(-margin)


def ipo_loss(errors: PairErrors, beta: Beta) -> Float[Tensor, " pair"]:
    """IPO (arXiv 2310.12036, eq. 17), its tau being beta: loss = (h - 1/2)^2.

    h / beta is IPO's difference of log-ratios, which should become 1 / (2 tau); the paper's square is taken
    times beta^2, which moves no minimum and leaves gradients at DPO's size, so that clipping means the same.
    """
    return (reward_margin(errors, beta) - 0.5).square()


def slic_hf_loss(errors: PairErrors, beta: Beta, hinge: float) -> Float[Tensor, " pair"]:
    """SLiC-HF: loss = max(0, hinge - h) (arXiv 2305.10425); its second term is `sft_weight`, which all may have.

    Likelihoods are taken relative to the reference (arXiv 2309.06657, the normalised hinge): the errors of
    two images at one timestep differ by far more than training moves them.
    """
    return F.relu(hinge - reward_margin(errors, beta))


def dspo_loss(errors: PairErrors, beta: Beta) -> Float[Tensor, " pair"]:
    """DSPO (ICLR 2025, as AIDC-AI/Diffusion-SDPO 84fb241, train.py, lines 1218-1219, computes it for SD1.5).

    loss = mean of (e - c d)^2 over C, H, W, with e the policy's error on the preferred image, d its prediction less the
    reference's, and c = beta (1 - sigmoid(h)). As |e - d|^2 = r_w, that is m_w - c (m_w + d^2 - r_w) + c^2 d^2.
    """
    drift_w = _known(errors.drift_w)
    scale = beta * torch.sigmoid(-reward_margin(errors, beta))
    return errors.policy_w - scale * (errors.policy_w + drift_w - errors.reference_w) + scale.square() * drift_w


def dmpo_loss(errors: PairErrors, beta: Beta, label_smoothing: Beta) -> Float[Tensor, " pair"]:
    """DMPO: the reverse divergence KL(p | q), p = sigmoid(h) and q = 1 - label_smoothing (cdpo's is KL(q | p)).

    loss = p log(p / q) + (1 - p) log((1 - p) / (1 - q)); as AIDC-AI/Diffusion-SDPO 84fb241, train.py, 1220-1234.
    """
    margin = reward_margin(errors, beta)
    q = (1 - torch.as_tensor(label_smoothing, dtype=margin.dtype, device=margin.device)).clamp(1e-6, 1 - 1e-6)
    log_p, log_not_p = F.logsigmoid(margin), F.logsigmoid(-margin)
    return log_p.exp() * (log_p - q.log()) + log_not_p.exp() * (log_not_p - torch.log1p(-q))


def alpha_dpo_loss(errors: PairErrors, beta: Beta, alpha: float) -> Float[Tensor, " pair"]:
    """The alpha-divergence of p = sigmoid(h) from 1: (p^a - (1 - a) - a p) / (a (a - 1)).

    As yangli-lab/Diffusion_alpha-DPO_ICLR2026 67e709b, scripts/main.py, line 1135; from a step on that trainer takes
    a times the batch's mean p. With a to 1 the loss becomes p log p - p + 1, with a to 0 it becomes p - 1 - log p.
    """
    log_p = F.logsigmoid(reward_margin(errors, beta))
    return ((alpha * log_p).exp() - (1 - alpha) - alpha * log_p.exp()) / (alpha * (alpha - 1))


def gce_loss(errors: PairErrors, beta: Beta, power: float) -> Float[Tensor, " pair"]:
    """Generalised cross entropy of p = sigmoid(h): (1 - p^q) / q, which a wrong label pulls less (arXiv 1805.07836).

    As L-CodingSpace/Semi-DPO b626a9e, losses.py, with its weight 1; its beta is half of ours.
    """
    return -torch.expm1(power * F.logsigmoid(reward_margin(errors, beta))) / power


def linear_dpo_loss(errors: PairErrors, beta: Beta, least_weight: float) -> Float[Tensor, " pair"]:
    """Linear-DPO (arXiv 2605.21123): DPO's weight of a pair, sigmoid(-h), made linear and clamped, times m_w - m_l.

    loss = sg(clamp(0.5 - 0.4 h, least_weight, 1 - least_weight)) (m_w - m_l): a straight-through form, so its value
    tells nothing of progress. As WhynotChen0105/Linear-DPO b273b95, train_sd3_dpo.py, lines 1214-1218.
    """
    weight = (0.5 - 0.4 * reward_margin(errors, beta)).clamp(least_weight, 1 - least_weight)
    return -weight.detach() * errors.policy_margin


def mapo_loss(errors: PairErrors, odds_weight: float, scale: float = 0.5, steps: int = 1000) -> Float[Tensor, " pair"]:
    """MaPO (arXiv 2406.06424): loss = m_w - odds_weight log sigmoid(steps (f(m_w) - f(m_l))).

    f(m) = s m / (exp(s m) - 1), s = scale.
    Neither the reference nor beta takes part. As mapo-t2i/mapo 374b3d3, utils.py, lines 286-301.
    """
    smallest = torch.finfo(errors.policy_w.dtype).tiny  # 0 / 0 at an error of exactly 0, where f is 1
    scaled = [(scale * m).clamp_min(smallest) for m in (errors.policy_w, errors.policy_l)]
    scores = [one / torch.expm1(one) for one in scaled]
    return errors.policy_w - odds_weight * F.logsigmoid(steps * (scores[0] - scores[1]))


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


def implicit_accuracy(errors: PairErrors) -> Float[Tensor, " pair"]:
    """1 where the policy leans to the preferred image more than the reference, DPO's loss below ln 2; 1/2 if alike."""
    return torch.heaviside(errors.policy_margin - errors.reference_margin, errors.policy_margin.new_tensor(0.5))


def winner_preserved(errors: PairErrors, mu: float) -> PairErrors:
    """The errors with the gradient of m_l times lambda, so that a step keeps a share mu of what it does for m_w.

    lambda = clamp((1 - mu) |g_w|^2 / (g_l . g_w), 0, 1) where g_l . g_w > 0, else 1; g are the gradients of m_w and m_l
    by the predictions (arXiv 2511.03317), which are the policy's errors but for a factor. One lambda to a pair: that of
    the authors' code is of the whole micro-batch, and results would depend on how a step is cut. No value changes.
    """
    alignment = _known(errors.alignment).detach()
    bound = (1 - mu) * errors.policy_w.detach() / alignment.clamp_min(torch.finfo(alignment.dtype).tiny)
    factor = torch.where(alignment > 0, bound.clamp(0, 1), 1.0)
    return replace(errors, policy_l=errors.policy_l.detach().lerp(errors.policy_l, factor))


def _known(value: Tensor | None) -> Tensor:
    if value is None:
        raise ValueError("these errors lack what the objective needs")
    return value


OfPairs = Mapping[str, Tensor]
OBJECTIVES: dict[str, Callable[[PairErrors, Objective, Beta, Beta], Tensor]] = {  # beta, label smoothing
    "dpo": lambda errors, o, beta, _: diffusion_dpo_loss(errors, beta),
    "cdpo": lambda errors, o, beta, smoothing: cdpo_loss(errors, beta, smoothing),
    "ipo": lambda errors, o, beta, _: ipo_loss(errors, beta),
    "slic-hf": lambda errors, o, beta, _: slic_hf_loss(errors, beta, o.hinge),
    "dspo": lambda errors, o, beta, _: dspo_loss(errors, beta),
    "dmpo": lambda errors, o, beta, smoothing: dmpo_loss(errors, beta, smoothing),
    "alpha": lambda errors, o, beta, _: alpha_dpo_loss(errors, beta, o.alpha),
    "gce": lambda errors, o, beta, _: gce_loss(errors, beta, o.gce_power),
    "linear": lambda errors, o, beta, _: linear_dpo_loss(errors, beta, o.least_weight),
    "orpo": lambda errors, o, *_: orpo_loss(errors, o.odds_weight),
    "mapo": lambda errors, o, *_: mapo_loss(errors, o.odds_weight),
    "sft": lambda errors, *_: sft_loss(errors),
}


def pair_loss(
    errors: PairErrors, objective: Objective, of_pairs: OfPairs | None = None, beta: Beta | None = None
) -> Float[Tensor, " pair"]:
    """The loss of each pair under the objective that the recipe names.

    of_pairs: numbers of each pair, shape (pair,), as far as the recipe asks for them: `weights` of the losses,
    `offsets` of the margins asked for, `smoothings`: probabilities that a label is wrong.
    beta: where the recipe's is "auto" or differs by pair, what it comes to.
    """
    of_pairs = of_pairs or {}
    if beta is None:
        beta = objective.fixed_beta
    if objective.preserve_winner is not None:
        errors = winner_preserved(errors, objective.preserve_winner)
    if "offsets" in of_pairs:
        losses = diffusion_dpo_loss(errors, beta, of_pairs["offsets"])
    else:
        smoothing = of_pairs.get("smoothings", objective.label_smoothing)
        losses = OBJECTIVES[objective.name](errors, objective, beta, smoothing)
    if objective.sft_weight:
        losses = losses + objective.sft_weight * errors.policy_w
    if objective.anchor_weight:
        losses = losses + objective.anchor_weight * _known(errors.drift)
    return losses * of_pairs["weights"] if "weights" in of_pairs else losses
