import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from train.loss import PairErrors, diffusion_dpo_loss, implicit_accuracy, prediction_mse

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


def test_loss_equals_the_published_formula() -> None:
    """SalesforceAIResearch/DiffusionDPO, commit 5233e75, train.py lines 1125-1145, on its own layout.

    Predictions of 2 * pairs images, the preferred first; means over C, H, W; scale -0.5 * beta_dpo.
    """
    generator = torch.Generator().manual_seed(0)
    prediction, reference, target = (torch.randn(8, 4, 6, 6, generator=generator) for _ in range(3))
    reference = prediction + 0.01 * reference
    beta = 5000.0

    policy_errors = ((prediction - target) ** 2).mean(dim=[1, 2, 3])
    reference_errors = ((reference - target) ** 2).mean(dim=[1, 2, 3])
    policy_difference = policy_errors[:4] - policy_errors[4:]
    reference_difference = reference_errors[:4] - reference_errors[4:]
    inside = -0.5 * beta * (policy_difference - reference_difference)
    expected_loss, expected_accuracy = -F.logsigmoid(inside).mean(), (inside > 0).float().mean()

    ours = PairErrors(*prediction_mse(prediction, target).chunk(2), *prediction_mse(reference, target).chunk(2))
    torch.testing.assert_close(diffusion_dpo_loss(ours, beta).mean(), expected_loss)
    torch.testing.assert_close(implicit_accuracy(ours).float().mean(), expected_accuracy)


def test_half_precision_predictions_are_compared_in_float32() -> None:
    prediction = torch.full((1, 1, 1, 1), 256.0, dtype=torch.float16)
    assert prediction_mse(prediction, torch.zeros_like(prediction)).item() == 65536.0  # inf in float16


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(Exception, match="prediction_mse"):
        prediction_mse(torch.zeros(2, 4, 8, 8), torch.zeros(3, 4, 8, 8))
