"""The trainer against `train.training.loop`, on the same shards; and what it does to a policy."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from benchmarks.reproduction.base import Base, make_scheduler
from benchmarks.reproduction.denoiser import make_denoiser
from benchmarks.reproduction.trainer import CPU, PicturesInMemory, Training, run_steps, train_policy
from tests.train import tiny
from tests.train.caches import build
from train.config import Recipe, load_recipe
from train.data.pairs import Pair, PairSet, read_pairs
from train.model.families import load
from train.model.lora import trainable
from train.training import loop


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def tiny_recipe(model: Path, **flags: Any) -> Recipe:
    run = {"steps": 5, "batch_pairs": 3, "micro_batch_pairs": 3, "checkpoint_every_steps": 5, "seed": 7}
    data = {"resolution_px": tiny.RESOLUTION_PX}
    optimizer = {"learning_rate": 1e-3, "warmup_steps": 2}
    return load_recipe("demo", flags={"model": str(model), "data": data, "run": run, "optimizer": optimizer} | flags)


@pytest.mark.parametrize("flags", [{}, {"lora": {"rank": 2}}], ids=["full", "lora"])
def test_weights_and_losses_are_those_of_the_real_loop(tmp_path: Path, flags: dict[str, Any]) -> None:
    """Five steps of a tiny Stable Diffusion on the same shards and seed: equal bit for bit."""
    model = tiny.save_sd(tmp_path / "sd")
    recipe = tiny_recipe(model, **flags)
    pairs = read_pairs(tiny.write_shards(tmp_path / "shards", tiny.samples(6)))
    AcceleratorState._reset_state(True)
    summary = loop.run_training(recipe, pairs, tmp_path / "trained", resume=False)
    AcceleratorState._reset_state(True)
    assert summary is not None
    expected = load_file(tmp_path / "trained" / "checkpoints" / "step-000005" / "weights.safetensors")

    losses: list[float] = []
    encoded = build(tmp_path / "cache", load(str(model)), pairs, flips=False)
    policy = run_steps(
        load(str(model)),
        recipe,
        pairs,
        encoded,
        (4, 16, 16),
        lambda step, _, means: losses.append(means["loss"]) if step else None,
    )
    found = trainable(policy)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert torch.equal(value.detach(), expected[name]), name
    log = (tmp_path / "trained" / "log.jsonl").read_text().splitlines()
    assert losses == pytest.approx([_loss(line) for line in log], abs=1e-6)


def _loss(line: str) -> float:
    import json

    return float(json.loads(line)["loss"])


def small_set() -> tuple[Base, PairSet, PicturesInMemory]:
    """Eight pairs of four prompts over random pictures; the base is an untrained denoiser."""
    generator = torch.Generator().manual_seed(0)
    base = Base(make_denoiser(0).requires_grad_(False), make_scheduler())
    pairs = [Pair(row // 2, 2 * row, 2 * row + 1) for row in range(8)]
    latents = torch.randn(16, 3, 16, 16, generator=generator)
    embeds = torch.cat([torch.rand(4, 8, 6, generator=generator), torch.zeros(1, 8, 6)])
    values = {"quality": np.linspace(1, 0.1, 8)}
    made = PairSet(pairs, [], [f"prompt {n}" for n in range(4)], [], Path("unused"), values)
    return base, made, PicturesInMemory(latents, embeds)


@pytest.mark.parametrize("objective", ["dpo", "ipo", "slic-hf", "orpo"])
def test_every_objective_trains_and_leaves_the_base_alone(objective: str) -> None:
    base, pairs, encoded = small_set()
    before = {name: value.clone() for name, value in base.denoiser.state_dict().items()}
    seen: list[tuple[int, dict[str, float]]] = []
    training = Training(learning_rate=1e-3, steps=3, batch_pairs=4, objective=objective)
    policy = train_policy(base, training.recipe(0), pairs, encoded, lambda step, _, means: seen.append((step, means)))
    assert [step for step, _ in seen] == [0, 1, 2, 3]
    assert all(math.isfinite(value) for _, means in seen for value in means.values())
    assert all(torch.equal(value, before[name]) for name, value in base.denoiser.state_dict().items())
    assert any(not torch.equal(value, before[name]) for name, value in policy.state_dict().items())


def test_dpo_begins_at_ln_2_and_learns_its_pairs() -> None:
    base, pairs, encoded = small_set()
    losses: list[float] = []
    training = Training(learning_rate=1e-3, steps=40, batch_pairs=8)
    train_policy(base, training.recipe(0), pairs, encoded, lambda s, _, m: losses.append(m["loss"]) if s else None)
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6)
    assert np.mean(losses[-5:]) < 0.6


def test_a_prefix_of_a_long_run_is_a_short_run() -> None:
    """So arms of one recipe may be looked at before they end."""
    base, pairs, encoded = small_set()
    curves: list[list[float]] = [[], []]
    for curve, steps in zip(curves, (3, 6), strict=True):
        recipe = Training(learning_rate=1e-3, steps=steps, batch_pairs=4).recipe(0)
        train_policy(base, recipe, pairs, encoded, lambda s, _, m, c=curve: c.append(m["loss"]) if s else None)  # type: ignore[misc]
    assert curves[0] == curves[1][:3]


def test_lora_trains_adapters_only_and_its_rank_decides_their_size() -> None:
    base, pairs, encoded = small_set()
    sizes = []
    for rank in (4, 8):
        recipe = Training(steps=1, batch_pairs=4, lora_rank=rank).recipe(0)
        policy = train_policy(base, recipe, pairs, encoded, lambda *_: None)
        assert all("lora" in name for name in trainable(policy))
        sizes.append(sum(value.numel() for value in trainable(policy).values()))
    assert sizes[1] == 2 * sizes[0]


def test_order_and_weights_reach_the_recipe() -> None:
    recipe = Training(order="ranked", own=(("weight_by", "quality"),), steps=5).recipe(3)
    assert (recipe.data.order, recipe.objective.weight_by, recipe.run.seed) == ("ranked", "quality", 3)
    assert not recipe.data.flips
    assert dataclasses.asdict(recipe)["run"]["micro_batch_pairs"] == recipe.run.batch_pairs


def test_flipped_pictures_are_refused() -> None:
    _, _, encoded = small_set()
    with pytest.raises(ValueError, match="not flipped"):
        encoded.encoded([0], torch.zeros(1), [True], [0])
    assert CPU.type == "cpu"
