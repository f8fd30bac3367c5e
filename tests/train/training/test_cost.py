import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

from tests.train import tiny
from train.config import Recipe, load_recipe
from train.data.latents import Batch
from train.model.families import Conditioning, load
from train.model.lora import trainable
from train.model.policy import make_policy
from train.objectives import pair_loss
from train.training.cost import (
    ENCODING_BYTES,
    ENOUGH_PAIRS,
    MOST_PAIRS,
    USED_SHARE,
    StepCounter,
    cost,
    fitted,
    free_bytes,
)
from train.training.pair_errors import pair_errors

CPU = torch.device("cpu")
MIB = 2**20


def recipe(model: Path, preset: str = "demo", **changes: dict[str, Any]) -> Recipe:
    plain: dict[str, dict[str, Any]] = {"data": {"resolution_px": 64}}
    return load_recipe(preset, None, {"model": str(model), **plain, **changes})


def auto(model: Path, **run: Any) -> Recipe:
    open_ones = {"micro_batch_pairs": "auto", "gradient_checkpointing": "auto", "batch_pairs": 96}
    return recipe(model, run=open_ones | run)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_weights_gradients_and_moments_are_those_of_the_policy(sd: Path, lora: bool) -> None:
    adapters: dict[str, dict[str, Any]] = {"lora": {"rank": 2}} if lora else {}
    asked = recipe(sd, "demo", optimizer={"ema_decay": 0.9}, **adapters)
    model = load(str(sd))
    frozen = sum(value.numel() for value in model.denoiser.parameters())
    policy, _ = make_policy(model, asked, CPU, torch.float32)
    trained = sum(value.numel() for value in trainable(policy).values())
    found = cost(asked, 1)
    assert found.weights_bytes == 4 * (frozen + trained)
    assert (found.gradients_bytes, found.moments_bytes) == (4 * trained, (8 + 4) * trained)
    spread = cost(replace(asked, run=replace(asked.run, fsdp=True)), 1, processes=4)
    assert spread.gradients_bytes == found.gradients_bytes // 4
    assert spread.activations_bytes == found.activations_bytes


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
def test_what_is_alive_at_once_is_what_a_real_step_holds(sd: Path, checkpointing: bool) -> None:
    """The same step with values, on the CPU; its attention is another kernel."""
    asked, pairs = recipe(sd, run={"gradient_checkpointing": checkpointing}), 3
    model = load(str(sd))
    with StepCounter() as memory:
        for module in (model.denoiser, model.vae):
            for value in module.parameters():
                value.data = value.data.clone()  # seen
        policy, reference = make_policy(model, asked, CPU, torch.float32)
        for value in trainable(policy).values():
            value.grad = torch.zeros_like(value)
        batch = Batch(
            latents=torch.randn(2, pairs, 4, 32, 32),
            noise=torch.randn(pairs, 4, 32, 32),
            timesteps=torch.arange(pairs),
            conditioning=Conditioning(torch.randn(2 * pairs, 77, 16)),
        )
        memory.most = standing = memory.now
        pair_loss(pair_errors(policy, reference, model.scheduler, batch), asked.objective).sum().backward()
    assert cost(asked, pairs).activations_bytes == pytest.approx(memory.most - standing, rel=0.1)


@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3"])
def test_every_family_is_counted_evenly_in_pairs(family: str, request: pytest.FixtureRequest) -> None:
    asked = recipe(request.getfixturevalue(family), run={"mixed_precision": "bf16"})
    one, two, four = (cost(asked, pairs) for pairs in (1, 2, 4))
    assert (two.flop, four.flop) == (2 * one.flop, 4 * one.flop)
    each = two.activations_bytes - one.activations_bytes
    assert four.activations_bytes == pytest.approx(two.activations_bytes + 2 * each, rel=0.02)
    again = cost(replace(asked, run=replace(asked.run, gradient_checkpointing=True)), 4)
    assert again.flop > four.flop
    assert again.activations_bytes < four.activations_bytes
    full = cost(recipe(request.getfixturevalue(family), run={"mixed_precision": "no"}), 4)
    assert full.activations_bytes > four.activations_bytes


def test_auto_takes_as_many_pairs_as_fit_and_checkpointing_only_where_it_must(sd: Path) -> None:
    def need(run: Any, pairs: int) -> float:
        return cost(replace(auto(sd), run=replace(run, micro_batch_pairs=pairs)), pairs).total_bytes / USED_SHARE

    plain = replace(auto(sd).run, gradient_checkpointing=False)
    found = fitted(auto(sd), math.ceil(need(plain, 6)) + MIB // 4, 1).run
    assert (found.micro_batch_pairs, found.gradient_checkpointing) == (6, False)
    found = fitted(auto(sd), math.floor(need(plain, ENOUGH_PAIRS)) - MIB // 4, 1).run
    assert found.gradient_checkpointing is True
    assert fitted(auto(sd), 1, 1).run.micro_batch_pairs == 1  # the run then says that memory is short
    assert fitted(auto(sd), 2**40, 1).run.micro_batch_pairs == MOST_PAIRS
    assert fitted(auto(sd), 2**40, 96).run.micro_batch_pairs == 1
    assert fitted(auto(sd, batch_pairs=34), 2**40, 1).run.micro_batch_pairs == 17  # two halves, not 32 and 2
    assert fitted(auto(sd, batch_pairs=34 * 3, fsdp=True), 2**40, 3).run.micro_batch_pairs == 17
    given = fitted(auto(sd, micro_batch_pairs=40), 2**40, 1).run
    assert (given.micro_batch_pairs, given.gradient_checkpointing) == (40, False)


def test_without_a_cache_the_encoders_hold_memory_too(sd3: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=2**40))
    model = load(str(sd3))
    held = sum(weight.numel() for one in (model.vae, *model.text_encoders) for weight in one.parameters())
    for precision, weight_bytes in (("no", 4), ("bf16", 2)):
        asked = auto(sd3, mixed_precision=precision)
        assert free_bytes(CPU, asked, use_cache=True) == 2**40
        assert free_bytes(CPU, asked, use_cache=False) == 2**40 - weight_bytes * held - ENCODING_BYTES


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("checkpointing", "tflop", "gib"), [(False, 6.546, (3.2 + 1.6, 3.2, 6.4)), (True, 7.736, (3.2 + 1.6, 3.2, 6.4))]
)
def test_sd15_s_full_size_costs_what_the_readme_says(
    tmp_path: Path, checkpointing: bool, tflop: float, gib: tuple[float, ...]
) -> None:
    """859.5 million weights: 3.2 GiB of float32, and half of it for the reference."""
    folder = tiny.save_outline_of_sd15(tmp_path)
    found = cost(load_recipe("sd15", None, {"model": str(folder), "run": {"gradient_checkpointing": checkpointing}}), 1)
    assert found.flop / 1e12 == pytest.approx(tflop, abs=1e-3)
    parts = (found.weights_bytes, found.gradients_bytes, found.moments_bytes)
    assert [part / 2**30 for part in parts] == pytest.approx(gib, rel=0.01)
