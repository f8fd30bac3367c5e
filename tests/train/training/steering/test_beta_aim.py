"""What beta comes to: by hand, and by the algebra between what models predict."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

from train.config import Objective
from train.model.families import add_noise
from train.objectives import prediction_mse
from train.training.steering.beta_aim import BetaAim

EPSILON, VELOCITY = DDPMScheduler(), DDPMScheduler(prediction_type="v_prediction")
FLOW = FlowMatchEulerDiscreteScheduler(shift=3.0)
TIMESTEPS = torch.tensor([20, 500, 900])


def batch(**of_pairs: torch.Tensor) -> Any:
    return SimpleNamespace(timesteps=TIMESTEPS, of_pairs=of_pairs)


def test_auto_gives_a_pair_of_the_mean_margin_the_wanted_gradient_factor() -> None:
    aim = BetaAim(Objective(name="dpo", beta="auto", beta_aim=0.2), EPSILON)
    assert aim.value == 10_000  # no margin is known
    aim.update(0.0)  # policy and reference are one still
    assert aim.value == 10_000
    aim.update(0.002)
    assert 1 / (1 + math.exp(0.5 * aim.value * 0.002)) == pytest.approx(0.2)
    aim.update(0.006)  # the average is 0.95 * 0.002 + 0.05 * 0.006
    assert aim.value == pytest.approx(2 * math.log(4) / 0.0022)
    aim.update(math.nan)
    assert aim.size == pytest.approx(0.0022)
    aim.update(1e-9)
    assert BetaAim(Objective(name="dpo", beta="auto", beta_most=50.0), EPSILON, size=1e-9).value == 50


def test_beta_is_one_number_unless_pairs_or_timesteps_have_their_own() -> None:
    plain = Objective(name="dpo", beta=100.0)
    assert BetaAim(plain, EPSILON).of(batch()) == 100.0
    each = BetaAim(plain, EPSILON).of(batch(betas=torch.tensor([0.5, 1.0, 1.5])))
    assert isinstance(each, torch.Tensor)
    assert each.tolist() == [50, 100, 150]


@pytest.mark.parametrize(
    ("scheduler", "space"), [(EPSILON, "velocity"), (VELOCITY, "epsilon"), (FLOW, "epsilon"), (FLOW, "velocity")]
)
def test_beta_space_gives_the_loss_of_a_model_that_predicts_in_that_space(scheduler: Any, space: Any) -> None:
    """One wrong guess of the latents, told as this model predicts and as one of the other kind does."""
    generator = torch.Generator().manual_seed(0)
    latents, noise, guess = (torch.randn(3, 4, 2, 2, generator=generator) for _ in range(3))
    noisy, target, _ = add_noise(scheduler, latents, noise, TIMESTEPS)
    if scheduler is FLOW:
        sigma = FLOW.sigmas.flip(0)[TIMESTEPS][:, None, None, None]
        kept = 1 - sigma
    else:
        kept = scheduler.alphas_cumprod[TIMESTEPS].sqrt()[:, None, None, None]
        sigma = (1 - kept.square()).sqrt()
    guessed_noise = (noisy - kept * guess) / sigma
    v = {"noise": noise, "guess": guessed_noise}
    told = {
        "epsilon": (v["guess"], v["noise"]),
        "v": (kept * v["guess"] - sigma * guess, kept * noise - sigma * latents),
        "flow": (v["guess"] - guess, noise - latents),
    }
    own = "flow" if scheduler is FLOW else "epsilon" if scheduler is EPSILON else "v"
    torch.testing.assert_close(told[own][1], target, rtol=1e-4, atol=1e-4)
    other = "epsilon" if space == "epsilon" else "flow" if scheduler is FLOW else "v"
    beta = BetaAim(Objective(name="dpo", beta=2.0, beta_space=space), scheduler).of(batch())
    torch.testing.assert_close(
        beta * prediction_mse(*told[own]), 2.0 * prediction_mse(*told[other]), rtol=1e-3, atol=1e-3
    )
