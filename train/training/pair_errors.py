"""A batch to the squared errors of policy and reference, one forward of each, and what the log tells of them."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from train.config import Objective
from train.data.latents import Batch
from train.model.families import Scheduler, add_noise, denoise
from train.model.policy import Reference
from train.objectives import Beta, PairErrors, implicit_accuracy, prediction_mse, reward_margin

BANDS = 4  # equal parts of the noise schedule, the least noise first, for which the log has the margin


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
    unknown = torch.full((pairs,), torch.nan, device=noisy.device)
    reference_sides = reference_square = drift = drift_w = unknown
    if referred:
        with torch.no_grad(), reference() as frozen:
            expected = denoise(frozen, noisy, timesteps, conditioning)
    predicted = denoise(policy, noisy, timesteps, conditioning)
    policy_w, policy_l = _sides(prediction_mse(predicted, target), pairs)
    if referred:
        reference_sides = prediction_mse(expected, target)
        reference_square = _mean(expected, pairs)
        of_images = prediction_mse(predicted, expected)
        drift_w, drift = of_images[:pairs], of_images.unflatten(0, (-1, pairs)).mean(0)
    reference_w, reference_l = _sides(reference_sides, pairs)
    return PairErrors(
        policy_w,
        policy_l,
        reference_w,
        reference_l,
        drift,
        drift_w,
        alignment=_alignment(predicted.detach(), target, pairs) if rejected else unknown,
        policy_square=_mean(predicted.detach(), pairs),
        reference_square=reference_square,
    )


def _sides(of_images: Float[Tensor, " image"], pairs: int) -> tuple[Tensor, Tensor]:
    """Of the preferred and of the rejected images; NaN of those that were not computed."""
    w, l = of_images[:pairs], of_images[pairs:]  # noqa: E741
    return w, l if len(l) else torch.full_like(w, torch.nan).detach()


def _mean(prediction: Tensor, pairs: int) -> Float[Tensor, " pair"]:
    """The mean square of the predictions for a pair."""
    return prediction_mse(prediction, torch.zeros_like(prediction)).unflatten(0, (-1, pairs)).mean(0)


def _alignment(predicted: Tensor, target: Tensor, pairs: int) -> Float[Tensor, " pair"]:
    """The mean product of the errors on both images of a pair."""
    error = predicted.float() - target.float()
    return (error[:pairs] * error[pairs:]).mean(dim=(1, 2, 3))


def pair_metrics(
    errors: PairErrors, losses: Tensor, beta: Beta, noise_share: Float[Tensor, " pair"]
) -> dict[str, Tensor]:
    """What the log tells of each pair, by name: float32, on the device and without gradient; NaN where not known.

    noise_share: the pairs' timesteps as shares of the schedule, in [0, 1). `step_metrics` takes their means.
    """
    margin = errors.policy_margin - errors.reference_margin
    drift, rises = errors.drift, (errors.policy_w > errors.reference_w) & (errors.policy_l > errors.reference_l)
    squares = [errors.policy_square, errors.reference_square]
    unknown = torch.full_like(losses, torch.nan)
    metrics = {
        "loss": losses,
        "policy_mse_preferred": errors.policy_w,
        "policy_mse_rejected": errors.policy_l,
        "reference_mse_preferred": errors.reference_w,
        "reference_mse_rejected": errors.reference_l,
        "policy_margin": errors.policy_margin,
        "reference_margin": errors.reference_margin,
        "implicit_accuracy": implicit_accuracy(errors),
        "gradient_factor": torch.sigmoid(-reward_margin(errors, beta)),
        "both_errors_rise": rises.float(),
        "margin_size": margin.abs(),
        "drift": torch.zeros_like(losses) if drift is None else drift,
        "policy_square": unknown if squares[0] is None else squares[0],
        "reference_square": unknown if squares[1] is None else squares[1],
    }
    known = margin.isfinite()
    for name in ("implicit_accuracy", "gradient_factor", "both_errors_rise"):
        metrics[name] = torch.where(known, metrics[name], torch.nan)
    band = (noise_share * BANDS).long()
    for one in range(BANDS):
        metrics[f"margin_band_{one}"] = torch.where(band == one, margin, 0.0)
        metrics[f"band_{one}"] = (band == one).float()
    return {name: values.detach().float() for name, values in metrics.items()}


def step_metrics(means: dict[str, float]) -> dict[str, float]:
    """The means of `pair_metrics` over a step as they are written: ratios where a mean alone tells nothing.

    `winner_error_ratio` and `prediction_norm_ratio` are policy to reference; `margin_by_noise_1` to `_4` are the mean
    margins at little to much noise.
    """
    written = {name: value for name, value in means.items() if "band_" not in name and not name.endswith("_square")}
    written["winner_error_ratio"] = _ratio(means["policy_mse_preferred"], means["reference_mse_preferred"])
    squares = _ratio(means["policy_square"], means["reference_square"])
    written["prediction_norm_ratio"] = math.sqrt(squares) if squares >= 0 else math.nan
    for one in range(BANDS):
        written[f"margin_by_noise_{one + 1}"] = _ratio(means[f"margin_band_{one}"], means[f"band_{one}"])
    return written


def _ratio(above: float, below: float) -> float:
    return above / below if below else math.nan
