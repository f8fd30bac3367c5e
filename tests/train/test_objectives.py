import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, strategies as st
from torch.nn import functional as F

from tests.train import conftest
from train.config import Objective
from train.objectives import (
    OBJECTIVES,
    PairErrors,
    alpha_dpo_loss,
    cdpo_loss,
    diffusion_dpo_loss,
    dmpo_loss,
    dspo_loss,
    gce_loss,
    implicit_accuracy,
    ipo_loss,
    linear_dpo_loss,
    mapo_loss,
    orpo_loss,
    pair_loss,
    prediction_mse,
    sft_loss,
    slic_hf_loss,
    winner_preserved,
)

values = st.floats(0, 2, allow_nan=False, width=64)


def errors(*rows: tuple[float, float, float, float]) -> PairErrors:
    """policy_w, policy_l, reference_w, reference_l of each pair."""
    return PairErrors(*torch.tensor(rows, dtype=torch.float64).T)


def test_loss_equals_hand_worked_numbers() -> None:
    # Policy margin 0.4 - 0.1 = 0.3, reference margin 0.3 - 0.2 = 0.1; half of beta 10 times 0.2 is 1;
    # -log sigmoid(1) = log(1 + 1/e). The second pair has the sides swapped: log(1 + e).
    loss = diffusion_dpo_loss(errors((0.1, 0.4, 0.2, 0.3), (0.4, 0.1, 0.3, 0.2)), beta=10.0)
    assert loss.tolist() == pytest.approx([0.313261687518223, 1.313261687518223], abs=1e-12)


@given(values, values, st.floats(1, 1e4))
def test_policy_equal_to_reference_gives_ln_2(w: float, l: float, beta: float) -> None:  # noqa: E741
    assert diffusion_dpo_loss(errors((w, l, w, l)), beta).item() == pytest.approx(math.log(2))


@given(values, values, values, values)
def test_swapping_the_sides_negates_the_margins(pw: float, pl: float, rw: float, rl: float) -> None:
    straight, swapped = errors((pw, pl, rw, rl)), errors((pl, pw, rl, rw))
    assert torch.equal(straight.policy_margin, -swapped.policy_margin)
    assert torch.equal(straight.reference_margin, -swapped.reference_margin)
    # -log s(x) + log s(-x) = -x: the two losses differ by the inner margin.
    inner = 0.5 * 7.0 * (straight.policy_margin - straight.reference_margin)
    difference = diffusion_dpo_loss(straight, 7.0) - diffusion_dpo_loss(swapped, 7.0)
    torch.testing.assert_close(difference, -inner)


def test_gradient_matches_finite_differences() -> None:
    inputs = [torch.rand(5, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    reference = [torch.rand(5, dtype=torch.float64) for _ in range(2)]
    assert torch.autograd.gradcheck(
        lambda w, l: diffusion_dpo_loss(PairErrors(w, l, *reference), beta=3.0),  # noqa: E741
        inputs,
    )


def test_the_gradient_through_predictions_matches_finite_differences() -> None:
    target = torch.randn(2, 3, 2, 2, dtype=torch.float64)
    prediction = torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)

    w, l = prediction_mse(prediction, target).detach().chunk(2)  # noqa: E741
    fixed = (w * 0.9, l * 1.1)

    def loss(prediction: torch.Tensor) -> torch.Tensor:
        policy_w, policy_l = prediction_mse(prediction, target).chunk(2)
        return diffusion_dpo_loss(PairErrors(policy_w, policy_l, *fixed), 5.0)

    assert torch.autograd.gradcheck(loss, prediction)


def wave(step: float, scale: float = 1.0) -> torch.Tensor:
    """Eight images of latents that any version of any library makes alike."""
    return (torch.arange(8 * 4 * 6 * 6, dtype=torch.float64) * step).sin().mul(scale).float().reshape(8, 4, 6, 6)


def test_the_loss_equals_the_official_scripts_on_the_same_tensors() -> None:
    """What SalesforceAIResearch/DiffusionDPO 5233e75 (train.py, lines 1125-1145, beta 5000) and diffusers 58eb52c

    (research_projects/diffusion_dpo/train_diffusion_dpo.py, lines 850-890, beta 2500, and
    train_diffusion_dpo_sdxl.py, lines 1010-1044, beta 5000) gave when run on these tensors under torch 2.14.1:
    predictions of eight images, the four preferred ones first.
    """
    target = wave(0.37)
    prediction = target + wave(0.11, 0.3)
    reference = prediction + wave(0.23, 0.01)
    ours = PairErrors(*prediction_mse(prediction, target).chunk(2), *prediction_mse(reference, target).chunk(2))
    losses = diffusion_dpo_loss(ours, 5000.0)
    inside = [-0.05570240318775177, -0.1842249184846878, -0.049155205488204956, 0.1649465411901474]
    torch.testing.assert_close(losses, -F.logsigmoid(torch.tensor(inside)), rtol=1e-5, atol=1e-6)
    assert losses.mean().item() == pytest.approx(0.7107449769973755, rel=1e-6)
    assert implicit_accuracy(ours).mean().item() == 0.25
    raw = torch.cat([ours.policy_w, ours.policy_l]).mean().item(), torch.cat(vars_of_reference(ours)).mean().item()
    assert raw == pytest.approx((0.044818878173828125, 0.04486054182052612), rel=1e-6)
    # diffusers' hinge, beta 2500 without the factor 1/2.
    assert slic_hf_loss(ours, 5000.0, 1.0).mean().item() == pytest.approx(1.031033992767334, rel=1e-6)


# The inside of each script's loss, as its source has it at the commits above; delta is (m_w - m_l) - (r_w - r_l).
THEIR_LOSSES: dict[str, tuple[float, Callable[[torch.Tensor, float], torch.Tensor]]] = {
    "SalesforceAIResearch/DiffusionDPO": (5000.0, lambda delta, beta: -F.logsigmoid(-0.5 * beta * delta)),
    "diffusers, `train_diffusion_dpo.py`": (2500.0, lambda delta, beta: -F.logsigmoid(beta * -delta)),
    "diffusers, `train_diffusion_dpo_sdxl.py`": (5000.0, lambda delta, beta: -F.logsigmoid(-0.5 * beta * delta)),
    "diffusers, `--loss_type hinge`": (2500.0, lambda delta, beta: torch.relu(1 - beta * -delta)),
}


def test_each_row_of_the_beta_table_gives_the_script_s_loss() -> None:
    """docs/training.md says which beta of each script is 5000 here: with it, theirs is ours on worked numbers."""
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text("utf-8")
    table = page.split("### β in other trainers")[1].split("\n\n")[1].splitlines()[2:]
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in table]
    stated = {trainer: float(beta.split(",")[0]) for trainer, _, beta in rows}
    assert stated == {trainer: beta for trainer, (beta, _) in THEIR_LOSSES.items()}
    pair = errors((0.1003, 0.1001, 0.1, 0.1004))  # delta = 0.0002 + 0.0004; half of 5000 times it is 1.5
    for trainer, (beta, loss) in THEIR_LOSSES.items():
        hinge = trainer.endswith("hinge`")
        ours = slic_hf_loss(pair, 5000.0, 1.0) if hinge else diffusion_dpo_loss(pair, 5000.0)
        assert ours.item() == pytest.approx(2.5 if hinge else math.log(1 + math.exp(1.5)), rel=1e-9)
        torch.testing.assert_close(loss(pair.reference_margin - pair.policy_margin, beta), ours)


def vars_of_reference(errors: PairErrors) -> list[torch.Tensor]:
    return [errors.reference_w, errors.reference_l]


# One pair, worked by hand: policy margin 0.4 - 0.1 = 0.3, reference margin 0.1, beta 10, so h = 5 * 0.2 = 1.
WORKED = errors((0.1, 0.4, 0.2, 0.3))
MORE = replace(WORKED, drift_w=torch.tensor([0.05], dtype=torch.float64))


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        # 0.8 log(1 + 1/e) + 0.2 log(1 + e)
        (cdpo_loss(WORKED, 10.0, 0.2), 0.8 * 0.313261687518223 + 0.2 * 1.313261687518223),
        (cdpo_loss(WORKED, 10.0, 0.0), 0.313261687518223),
        (ipo_loss(WORKED, 10.0), 0.25),  # (1 - 1/2)^2
        (slic_hf_loss(WORKED, 10.0, 1.5), 0.5),
        (slic_hf_loss(WORKED, 10.0, 0.9), 0.0),
        # log-odds -log(e^0.1 - 1) = 2.25216846, -log(e^0.4 - 1) = 0.70963293; their difference d = 1.54253553
        # and log(1 + e^-d) = 0.19378742, a tenth of which is added to 0.1.
        (orpo_loss(WORKED, 0.1), 0.1 + 0.019378742211466807),
        (sft_loss(WORKED), 0.1),
        # With c = 10 sigmoid(-1) = 2.68941421 and a drift of 0.05 of the preferred image:
        # 0.1 - c (0.1 + 0.05 - 0.2) + 0.05 c^2
        (dspo_loss(MORE, 10.0), 0.1 + 0.05 * 2.689414213699951 + 0.05 * 7.232948812851325),
        # p = sigmoid(1) = 0.73105858: p log(p / 0.9) + (1 - p) log((1 - p) / 0.1)
        (dmpo_loss(WORKED, 10.0, 0.1), -0.1519879351957739 + 0.2660700428632718),
        # sqrt(p) less 1/2, less p / 2
        (alpha_dpo_loss(WORKED, 10.0, 0.5), (0.8550196364 - 0.5 - 0.3655292893) / -0.25),
        (gce_loss(WORKED, 10.0, 0.5), 2 * (1 - 0.8550196364)),
        (linear_dpo_loss(WORKED, 10.0, 0.05), 0.1 * -0.3),  # 0.5 - 0.4 h = 0.1
        (linear_dpo_loss(WORKED, 100.0, 0.05), 0.05 * -0.3),  # clamped
        # f(0.1) = 0.05 / (e^0.05 - 1) = 0.97520831, f(0.4) = 0.2 / (e^0.2 - 1) = 0.90333111; ten times the difference
        # is 0.71877211, and log(1 + e^-0.71877211) = 0.39699621
        (mapo_loss(WORKED, 0.1, steps=10), 0.1 + 0.0396996214),
        # h - 0.4 = 0.6; log(1 + e^-0.6)
        (diffusion_dpo_loss(WORKED, 10.0, torch.tensor([0.4], dtype=torch.float64)), 0.437487950485645),
    ],
    ids=lambda value: "" if isinstance(value, float) else None,
)
def test_objectives_equal_hand_worked_numbers(loss: torch.Tensor, expected: float) -> None:
    assert loss.item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", [*OBJECTIVES, "sft and anchor"])
def test_every_objective_prefers_the_preferred_image_and_has_a_sound_gradient(name: str) -> None:
    """Predicting the preferred image better never costs; the gradient is that of finite differences."""
    objective = Objective(name="dpo", beta=2.0, sft_weight=0.5, anchor_weight=0.3)
    if name in OBJECTIVES:
        objective = Objective(name=name, beta=2.0)  # type: ignore[arg-type]
    w, l, drift = (torch.rand(6, dtype=torch.float64).add(0.1).requires_grad_(True) for _ in range(3))  # noqa: E741
    fixed = torch.rand(2, 6, dtype=torch.float64)
    weights = {"weights": torch.linspace(0.5, 1.5, 6, dtype=torch.float64)}

    def loss(w: torch.Tensor, l: torch.Tensor, drift: torch.Tensor) -> torch.Tensor:  # noqa: E741
        return pair_loss(PairErrors(w, l, fixed[0], fixed[1], drift, 0.5 * drift), objective, weights)

    if name == "linear":  # its weight counts as fixed: then its gradient is the weight, between the two bounds
        (gradient,) = torch.autograd.grad(loss(w, l, drift).sum(), w)
        share = gradient / weights["weights"]
        assert ((share >= objective.least_weight) & (share <= 1 - objective.least_weight)).all()
        return
    assert torch.autograd.gradcheck(loss, [w, l, drift])
    (gradient,) = torch.autograd.grad(loss(w, l, drift).sum(), w)
    bounded = {"ipo", "cdpo", "dmpo", "dspo"}  # these have a margin that is large enough
    assert name in bounded or (gradient >= 0).all()


# Loss and the norm of its gradient by the eight predictions, of the authors' own code run on the tensors above under
# torch 2.14.1: AIDC-AI/Diffusion-SDPO 84fb241 train.py (dspo, dmpo), yangli-lab/Diffusion_alpha-DPO_ICLR2026 67e709b
# scripts/main.py line 1135, WhynotChen0105/Linear-DPO b273b95 train_sd3_dpo.py, mapo-t2i/mapo 374b3d3 utils.py; and
# L-CodingSpace/Semi-DPO b626a9e losses.py (gce, its beta 2500 being ours of 5000).
THEIR_VALUES: list[tuple[dict[str, object], float, float]] = [
    ({"name": "dspo", "beta": 5000.0}, 322.5529479980469, 20023.88671875),
    ({"name": "dspo", "beta": 10.0}, 0.045845989137887955, 0.07126995176076889),
    ({"name": "dmpo", "beta": 2000.0, "label_smoothing": 0.01}, 1.629054069519043, 28.72122573852539),
    ({"name": "alpha", "beta": 5000.0, "alpha": 0.9999}, 0.159607395529747, 11.070131301879883),
    ({"name": "alpha", "beta": 5000.0, "alpha": 0.5}, 0.17947204411029816, 13.343457221984863),
    ({"name": "linear", "beta": 100.0}, -0.00014664846821688116, 0.012481005862355232),
    ({"name": "linear", "beta": 5000.0}, -0.00014834190369583666, 0.012844003736972809),
    ({"name": "mapo", "beta": 0.0}, 0.11048553884029388, 0.3111810088157654),
    ({"name": "gce", "beta": 5000.0}, 0.5974838733673096, 22.175752639770508),
]


@pytest.mark.parametrize(("keys", "value", "gradient_norm"), THEIR_VALUES)
def test_newer_objectives_equal_their_authors_code(keys: dict[str, object], value: float, gradient_norm: float) -> None:
    target = wave(0.37)
    prediction = (target + wave(0.11, 0.3)).requires_grad_()
    reference = prediction.detach() + wave(0.23, 0.01)
    w, l = prediction_mse(prediction, target).chunk(2)  # noqa: E741
    expected_w, expected_l = prediction_mse(reference, target).chunk(2)
    drift_w, _ = prediction_mse(prediction, reference).chunk(2)
    ours = PairErrors(w, l, expected_w, expected_l, drift_w=drift_w)
    loss = pair_loss(ours, Objective(**keys)).mean()  # type: ignore[arg-type]
    (gradient,) = torch.autograd.grad(loss, prediction)
    assert (loss.item(), gradient.norm().item()) == pytest.approx((value, gradient_norm), rel=2e-3)


@pytest.mark.parametrize(
    ("mu", "theirs"),  # get_adaptive_lose_l_scale of AIDC-AI/Diffusion-SDPO 84fb241, run on each pair by itself
    [
        (0.9, [0.11576265096664429, 0.11561533063650131, 0.11547967791557312, 0.1153651773929596]),
        (0.2, [0.9261012077331543, 0.9249226450920105, 0.923837423324585, 0.9229214191436768]),
    ],
)
def test_the_winner_is_preserved_by_the_authors_factor_and_no_value_changes(mu: float, theirs: list[float]) -> None:
    prediction, target = wave(0.37) + wave(0.11, 0.3), wave(0.37)
    w, l = prediction_mse(prediction, target).requires_grad_().chunk(2)  # noqa: E741
    error_w, error_l = (prediction - target).chunk(2)
    plain = PairErrors(w, l, w.detach(), l.detach(), alignment=(error_w * error_l).mean(dim=(1, 2, 3)))
    preserved = winner_preserved(plain, mu)
    assert torch.equal(preserved.policy_l, l)
    (gradient,) = torch.autograd.grad(preserved.policy_l.sum(), l)
    assert gradient.tolist() == pytest.approx(theirs, rel=1e-5)
    opposed = winner_preserved(replace(plain, alignment=-plain.alignment), mu)  # type: ignore[operator]
    assert torch.autograd.grad(opposed.policy_l.sum(), l)[0].tolist() == [1.0] * 4


def test_a_step_with_the_winner_preserved_keeps_its_share_for_the_winner() -> None:
    """-g_w + lambda g_l, seen along g_w, is at most -mu |g_w|^2: the condition that lambda is made of."""
    generator = torch.Generator().manual_seed(0)
    target = torch.zeros(12, 2, 3, 3, dtype=torch.float64)
    prediction = torch.randn(12, 2, 3, 3, dtype=torch.float64, generator=generator)
    prediction[6:] = prediction[6:] + 2 * prediction[:6]  # both errors point alike
    error_w, error_l = prediction.chunk(2)
    w, l = (prediction_mse(error, target[:6]).requires_grad_() for error in (error_w, error_l))  # noqa: E741
    plain = PairErrors(w, l, w.detach(), l.detach(), alignment=(error_w * error_l).mean(dim=(1, 2, 3)))
    (factor,) = torch.autograd.grad(winner_preserved(plain, 0.6).policy_l.sum(), l)
    towards = (-error_w + factor[:, None, None, None] * error_l).mul(error_w).sum(dim=(1, 2, 3))
    assert (towards <= -0.6 * error_w.square().sum(dim=(1, 2, 3)) + 1e-12).all()
    assert (factor < 1).all()


def test_the_mapo_of_a_perfect_prediction_is_finite() -> None:
    perfect = errors((0.0, 0.0, 0.1, 0.1)).policy_w.requires_grad_()
    loss = mapo_loss(PairErrors(perfect, perfect, perfect, perfect), 0.1)
    (gradient,) = torch.autograd.grad(loss.sum(), perfect)
    assert loss.isfinite().all()
    assert gradient.isfinite().all()


def test_ipo_and_cdpo_rest_at_their_stated_margins() -> None:
    beta, smoothing = 10.0, 0.2
    for loss, rest in (
        (lambda e: ipo_loss(e, beta), 1 / beta),  # policy margin less reference margin, from h = 1/2
        (lambda e: cdpo_loss(e, beta, smoothing), math.log(0.8 / 0.2) / (0.5 * beta)),
    ):
        margin = torch.tensor([rest], dtype=torch.float64, requires_grad=True)
        zero = torch.zeros(1, dtype=torch.float64)
        loss(PairErrors(zero, margin, zero, zero)).backward()
        assert margin.grad is not None
        assert margin.grad.item() == pytest.approx(0, abs=1e-12)


def test_orpo_of_a_perfect_prediction_is_finite() -> None:
    assert torch.isfinite(orpo_loss(errors((0.0, 0.0, 0.1, 0.1)), 0.1)).all()


def test_weights_multiply_and_offsets_shift() -> None:
    two = errors((0.1, 0.4, 0.2, 0.3), (0.4, 0.1, 0.3, 0.2))
    objective = Objective(name="dpo", beta=10.0)
    plain = pair_loss(two, objective)
    weights = torch.tensor([0.5, 2.0], dtype=torch.float64)
    torch.testing.assert_close(pair_loss(two, objective, {"weights": weights}), plain * weights)
    shifted = pair_loss(two, objective, {"offsets": torch.tensor([1.0, -1.0], dtype=torch.float64)})
    assert shifted.tolist() == pytest.approx([math.log(2), math.log(2)])  # h = 1 and -1


def test_each_pair_may_have_its_own_probability_of_a_wrong_label() -> None:
    """Three judges of four, all of them, and as many on either side: s = 1/4, 0 and 1/2, with h = 1."""
    right, wrong = 0.313261687518223, 1.313261687518223  # log(1 + 1/e), log(1 + e)
    objective = Objective(name="cdpo", beta=10.0, label_smoothing_by="strength")
    smoothings = torch.tensor([0.25, 0.0, 0.5], dtype=torch.float64)
    losses = pair_loss(errors(*3 * [(0.1, 0.4, 0.2, 0.3)]), objective, {"smoothings": smoothings})
    expected = [0.75 * right + 0.25 * wrong, right, 0.5 * right + 0.5 * wrong]
    assert losses.tolist() == pytest.approx(expected, abs=1e-9)


def test_half_precision_predictions_are_compared_in_float32() -> None:
    prediction = torch.full((1, 1, 1, 1), 256.0, dtype=torch.float16)
    assert prediction_mse(prediction, torch.zeros_like(prediction)).item() == 65536.0  # inf in float16


@pytest.mark.parametrize("module", conftest.CHECKED)
def test_shapes_and_types_are_checked_in_tests(module: str) -> None:
    assert type(sys.modules[module].__spec__.loader).__name__ == "_JaxtypingLoader"  # type: ignore[union-attr]


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(Exception, match="prediction_mse"):
        prediction_mse(torch.zeros(2, 4, 8, 8), torch.zeros(3, 4, 8, 8))
