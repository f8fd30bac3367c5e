from collections.abc import Iterator
from dataclasses import replace
from functools import partialmethod
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters

from tests.train import tiny
from tests.train.caches import build
from train.config import Recipe, load_recipe
from train.data.latents import Batch, assemble
from train.data.pairs import read_pairs
from train.data.random_draws import draw
from train.model.families import Conditioning, add_noise, denoise, load
from train.model.lora import trainable
from train.model.policy import _compile, make_policy
from train.objectives import PairErrors, pair_loss
from train.training.pair_errors import pair_errors

CPU = torch.device("cpu")
FULL = load_recipe("demo", None, {"data": {"resolution_px": tiny.RESOLUTION_PX}, "objective": {"beta": 100.0}})
LORA = load_recipe("demo", None, {"lora": {"rank": 4}, "objective": {"beta": 100.0}})
DORA = load_recipe("demo", None, {"lora": {"rank": 4, "dora": True}, "objective": {"beta": 100.0}})


@pytest.fixture(scope="module")
def batch(sd: Path, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Batch:
    folder, pairs = tmp_path_factory.mktemp("cache"), read_pairs(shards)
    cache = build(folder, load(str(sd)), pairs, flips=False)
    draws = [
        draw(0, 0, place, pair=place, timesteps=1000, latent_shape=(4, 16, 16), data=FULL.data) for place in range(6)
    ]
    return assemble(cache, pairs, draws)


def swapped(batch: Batch) -> Batch:
    embeds = batch.conditioning.prompt_embeds.unflatten(0, (2, -1)).flip(0).flatten(0, 1)
    return replace(batch, latents=batch.latents.flip(0), conditioning=Conditioning(embeds))


def gains(sd: Path, recipe: Recipe, batch: Batch, steps: int = 5) -> Iterator[float]:
    """Implicit margin, policy minus reference, before each of `steps` descents on one batch."""
    model = load(str(sd))
    unet, reference = make_policy(model, recipe, CPU, torch.float32)
    optimizer = torch.optim.AdamW(trainable(unet).values(), lr=1e-3)
    for _ in range(steps):
        errors = pair_errors(unet, reference, model.scheduler, batch)
        yield (errors.policy_margin - errors.reference_margin).mean().item()
        pair_loss(errors, recipe.objective).mean().backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("recipe", [FULL, LORA, DORA], ids=["full", "lora", "dora"])
def test_training_widens_the_margin_and_swapped_sides_narrow_it(sd: Path, batch: Batch, recipe: Recipe) -> None:
    straight = list(gains(sd, recipe, batch))
    assert straight[0] == pytest.approx(0, abs=1e-6)  # policy = reference at first
    assert straight[-1] > 1e-5
    other_way = [-gain for gain in gains(sd, recipe, swapped(batch))]  # in the straight batch's terms
    assert other_way[-1] < -1e-5


@pytest.mark.parametrize("recipe", [FULL, LORA], ids=["full", "lora"])
def test_in_half_precision_too_policy_and_reference_start_the_same(sd: Path, batch: Batch, recipe: Recipe) -> None:
    """With norms that half precision would round, as those of trained models are."""
    model = load(str(sd))
    with torch.no_grad():
        for parameter in model.denoiser.parameters():
            parameter.mul_(1 + 0.1 * torch.rand_like(parameter))
    unet, reference = make_policy(model, recipe, CPU, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        errors = pair_errors(unet, reference, model.scheduler, batch)
    assert torch.equal(errors.policy_w, errors.reference_w)
    assert torch.equal(errors.policy_l, errors.reference_l)


@pytest.mark.parametrize("recipe", [FULL, LORA, DORA], ids=["full", "lora", "dora"])
def test_the_reference_stays_and_gives_no_gradient(sd: Path, batch: Batch, recipe: Recipe) -> None:
    model = load(str(sd))
    unet, reference = make_policy(model, recipe, CPU, torch.float32)
    before = pair_errors(unet, reference, model.scheduler, batch)
    assert not before.reference_w.requires_grad
    with torch.no_grad():
        for parameter in trainable(unet).values():
            parameter.add_(0.01)
    after = pair_errors(unet, reference, model.scheduler, batch)
    assert torch.equal(before.reference_w, after.reference_w)
    assert torch.equal(before.reference_l, after.reference_l)
    assert not torch.equal(before.policy_w, after.policy_w)
    assert after.policy_w.requires_grad  # the adapters are on again


@pytest.mark.parametrize("recipe", [FULL, LORA, DORA], ids=["full", "lora", "dora"])
def test_the_policy_s_gradient_is_untouched_by_the_reference(sd: Path, batch: Batch, recipe: Recipe) -> None:
    """It equals the gradient with the reference's errors put in as plain numbers."""
    model = load(str(sd))
    policy, reference = make_policy(model, recipe, CPU, torch.float32)
    parameters = list(trainable(policy).values())
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.01)  # away from the reference, so that the loss has a slope
    errors = pair_errors(policy, reference, model.scheduler, batch)
    found = torch.autograd.grad(pair_loss(errors, recipe.objective).sum(), parameters)

    latents, noise, timesteps = batch.both_sides()
    noisy, target, _ = add_noise(model.scheduler, latents, noise, timesteps)
    predicted = denoise(policy, noisy, timesteps, batch.conditioning)
    w, l = (predicted - target).square().mean(dim=(1, 2, 3)).chunk(2)  # noqa: E741
    numbers = [torch.tensor(one.tolist()) for one in (errors.reference_w, errors.reference_l)]
    plain = PairErrors(w, l, *numbers)
    expected = torch.autograd.grad(pair_loss(plain, recipe.objective).sum(), parameters)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    assert any(one.abs().max() > 0 for one in found)


@pytest.mark.parametrize(("name", "forwards"), [("dpo", [12, 12]), ("orpo", [12]), ("sft", [6])])
@pytest.mark.parametrize("recipe", [FULL, LORA], ids=["full", "lora"])
def test_what_an_objective_does_not_use_is_not_computed_and_changes_nothing(
    sd: Path, batch: Batch, recipe: Recipe, name: str, forwards: list[int]
) -> None:
    """Loss and gradients are those of computing everything, of six pairs."""
    model, seen = load(str(sd)), list[int]()
    policy, reference = make_policy(model, recipe, CPU, torch.float32)
    parameters = list(trainable(policy).values())
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.01)
    with reference() as frozen:
        for denoiser in {policy, frozen}:
            denoiser.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    objective, results = replace(recipe.objective, name=name), []  # type: ignore[arg-type]
    for wanted in (objective, None):
        errors = pair_errors(policy, reference, model.scheduler, batch, wanted)
        losses = pair_loss(errors, objective)
        results.append([losses.detach(), *torch.autograd.grad(losses.sum(), parameters)])
    assert seen == [*forwards, 12, 12]
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


def test_a_reference_that_nothing_looks_at_is_not_held(sd: Path) -> None:
    sft = replace(FULL, objective=replace(FULL.objective, name="sft"))
    validated = replace(sft, run=replace(sft.run, validate_every_steps=1))
    for recipe, held in ((FULL, True), (sft, False), (validated, True)):
        _, reference = make_policy(load(str(sd)), recipe, CPU, torch.float32)
        with reference() as frozen:
            assert bool(list(frozen.parameters())) == held


class Layer(torch.nn.Module):
    """A module of somebody's own: torch 2.10 counts no graph of its own modules by themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Conv2d(1, 1, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.inner(images)
        return found


def test_every_shape_of_the_buckets_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """With and without gradients, where torch left off at the fifth; by the real tracer, without its slow backend."""
    monkeypatch.setattr(torch.nn.Module, "compile", partialmethod(torch.nn.Module.compile, backend="eager"))
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 8)
    layer = Layer()
    _compile(layer, replace(FULL, run=replace(FULL.run, compile=True)))
    counters.clear()
    for side in range(4, 24):
        layer(torch.zeros(1, 1, side, 8))
        with torch.no_grad():
            layer(torch.zeros(1, 1, side, 8))
    assert counters["stats"]["unique_graphs"] == 40
