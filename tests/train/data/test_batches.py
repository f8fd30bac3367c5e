import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from schemas.shards import META
from tests.train import tiny
from tests.train.caches import build
from train.config import Recipe, load_recipe
from train.data.batches import VALIDATION_DRAWS, BatchPlan, BatchSlot, BatchStream, split
from train.data.latents import Batch
from train.data.pairs import PairSet, read_pairs
from train.data.prefetch import prefetched
from train.errors import ShardError
from train.model.families import load

CPU = torch.device("cpu")
FIRST = [BatchSlot(0, 0), BatchSlot(1, 1), BatchSlot(2, 2)]  # the three best pairs


@pytest.fixture(scope="module")
def pairs(shards: Path) -> PairSet:
    return read_pairs(shards)


def recipe(**changes: Any) -> Recipe:
    plain = {
        "data": {"resolution_px": tiny.RESOLUTION_PX},
        "run": {"batch_pairs": 3, "micro_batch_pairs": 2, "steps": 4},
    }
    return load_recipe("demo", None, {name: plain.get(name, {}) | changes.get(name, {}) for name in {*plain, *changes}})


@pytest.fixture(scope="module")
def plan(sd: Path, pairs: PairSet, tmp_path_factory: pytest.TempPathFactory) -> BatchPlan:
    cache = build(tmp_path_factory.mktemp("cache"), load(str(sd)), pairs, flips=False)
    return BatchPlan(recipe(), pairs, cache, CPU, 1000, (4, 16, 16), rank=0, processes=1)


def same(one: Batch, other: Batch) -> bool:
    return torch.equal(one.latents, other.latents) and torch.equal(one.timesteps, other.timesteps)


def test_a_stream_gives_the_batches_of_the_plan_from_any_step(plan: BatchPlan) -> None:
    assert plan.micro_steps == [[0, 1], [2]]
    stream = BatchStream(plan, first_step=2)
    try:
        for step in (2, 3):
            expected = plan.micro_batches(step)
            assert [[place.position for place in places] for places in expected] == plan.micro_steps
            for number, places in enumerate(expected, start=1):
                batch, last = next(stream)
                assert same(batch, plan.batch(step, places))
                assert last == (number == len(expected))
        assert stream.waited_sec() > 0
        assert stream.waited_sec() == 0
        with pytest.raises(StopIteration):
            next(stream)
    finally:
        stream.close()


def test_two_processes_share_the_batch_of_one(plan: BatchPlan) -> None:
    shared = [replace(plan, rank=rank, processes=2) for rank in (0, 1)]
    assert [one.micro_steps for one in shared] == [[[0, 2]], [[1]]]
    whole = torch.cat([plan.batch(1, places).latents for places in plan.micro_batches(1)], dim=1)
    for one, positions in zip(shared, ([0, 2], [1]), strict=True):
        (places,) = one.micro_batches(1)
        assert torch.equal(one.batch(1, places).latents, whole[:, positions])


def test_the_order_is_the_one_asked_for(plan: BatchPlan, pairs: PairSet) -> None:
    for order, expected in (("ranked", [0, 1, 2]), ("reversed", [5, 4, 3])):
        ordered = replace(plan, recipe=recipe(data={"order": order}))
        assert [place.pair for places in ordered.micro_batches(0) for place in places] == expected


def test_weights_have_mean_one_and_offsets_are_scaled(plan: BatchPlan, pairs: PairSet) -> None:
    qualities = [1 / rank for rank in range(1, 7)]  # as tiny.sample writes them
    weighed = replace(plan, recipe=recipe(data={"order": "ranked"}, objective={"weight_by": "quality"}))
    weights = weighed.batch(0, FIRST).of_pairs["weights"]
    assert weights is not None
    assert weights.tolist() == pytest.approx([one / np.mean(qualities) for one in qualities[:3]])
    shifted = replace(
        plan, recipe=recipe(data={"order": "ranked"}, objective={"offset_by": "clip_margin", "offset_scale": 2.0})
    )
    offsets = shifted.batch(0, FIRST).of_pairs["offsets"]
    assert offsets is not None
    assert offsets.tolist() == pytest.approx([1.0, 0.5, 1 / 3], abs=1e-6)  # clip is 0.5 / rank against 0
    assert not plan.batch(0, FIRST).of_pairs


def test_strength_is_the_soft_label_or_a_weight_or_an_offset(tmp_path: Path, plan: BatchPlan) -> None:
    """Three judges of four, all four, two of three."""
    samples = tiny.samples(3)
    for one, strength in zip(samples, (0.75, 1.0, 2 / 3), strict=True):
        one.members[META] = json.dumps(json.loads(one.members[META]) | {"strength": strength}).encode()
    voted = read_pairs(tiny.write_shards(tmp_path / "shards", samples))

    def batch(**objective: Any) -> Batch:
        asked = recipe(data={"order": "ranked"}, objective=objective)
        return replace(plan, pairs=voted, recipe=asked).batch(0, FIRST)

    soft = batch(name="cdpo", label_smoothing_by="strength").of_pairs["smoothings"]
    weights = batch(weight_by="strength").of_pairs["weights"]
    offsets = batch(offset_by="strength", offset_scale=2.0).of_pairs["offsets"]
    assert soft is not None
    assert weights is not None
    assert offsets is not None
    assert soft.tolist() == pytest.approx([0.25, 0, 1 / 3])
    assert weights.tolist() == pytest.approx([0.75 / (29 / 36), 1 / (29 / 36), (2 / 3) / (29 / 36)])
    assert offsets.tolist() == pytest.approx([1.5, 2, 4 / 3])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"objective": {"offset_by": "hps_margin"}},
            "objective.offset_by asks for `hps_margin`, which no sample of the shards has; they have quality,"
            " clip_margin.",
        ),
        (
            {"objective": {"name": "cdpo", "label_smoothing_by": "quality"}},
            "objective.label_smoothing_by takes `quality` for the share that prefers the preferred side, which must lie"
            " between 0.5 and 1; it runs from 0.1667 to 1: take `strength`.",
        ),
        (
            {"data": {"validation_pairs": 5}},
            "data.validation_pairs is 5, but holding out so many of the 6 pairs, prompt by prompt, leaves none to train"
            " on; hold out fewer.",
        ),
    ],
)
def test_what_cannot_be_had_is_said_before_the_first_step(
    plan: BatchPlan, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ShardError) as caught:
        BatchStream(replace(plan, recipe=recipe(**changes)), 0)
    assert str(caught.value) == message


def test_weights_that_are_none(pairs: PairSet) -> None:
    values = {"quality": np.array([0.5, -0.1]), "some": np.array([np.nan, 1.0])}
    broken = replace(pairs, values=values)
    with pytest.raises(ShardError) as caught:
        broken.weights("quality", "data.order")
    assert str(caught.value) == (
        "data.order weighs by `quality`, which runs from -0.1 to 0.5; weights must not be negative nor all zero: take"
        " a metric that is not, or an offset instead."
    )
    with pytest.raises(ShardError) as caught:
        broken.value("some", "objective.offset_by")
    assert str(caught.value) == (
        "objective.offset_by asks for `some`, which 1 of 2 pairs lack (the first is number 1 by rank); export again, or"
        " take another value."
    )


def test_held_out_prompts_are_never_trained_on(plan: BatchPlan, pairs: PairSet) -> None:
    training, held_out = split(pairs, recipe(data={"validation_pairs": 1}))
    assert sorted([*training, *held_out]) == list(range(6))
    prompts = [{pairs.pairs[index].prompt for index in part} for part in (training, held_out)]
    assert len(held_out) == 2  # two pairs a prompt
    assert not prompts[0] & prompts[1]
    others = {tuple(split(pairs, recipe(data={"validation_pairs": 1}, run={"seed": seed}))[1]) for seed in range(9)}
    assert len(others) > 1
    assert [len(part) for part in split(pairs, recipe())] == [6, 0]


def test_pictures_are_drawn_of_held_out_prompts_first(plan: BatchPlan, pairs: PairSet) -> None:
    held = replace(plan, recipe=recipe(data={"validation_pairs": 1}))
    (prompt,) = {pairs.pairs[index].prompt for index in held.split[1]}
    assert held.prompts(1) == [pairs.prompts[prompt]]
    assert sorted(held.prompts(9)) == sorted(plan.prompts(9)) == sorted(pairs.prompts)


def test_validation_batches_are_always_the_same_and_shared_out(plan: BatchPlan) -> None:
    plan = replace(plan, recipe=recipe(data={"validation_pairs": 1}))
    first, again = list(plan.validation()), list(plan.validation())
    assert len(first) == VALIDATION_DRAWS  # two pairs, two to a micro-batch
    assert all(same(one, other) for (one, _), (other, _) in zip(first, again, strict=True))
    halves = [list(replace(plan, rank=rank, processes=2).validation()) for rank in (0, 1)]
    assert timesteps(*halves) == timesteps(first)


def test_with_spread_weights_each_process_validates_as_often_and_nothing_counts_twice(plan: BatchPlan) -> None:
    plan = replace(plan, recipe=recipe(data={"validation_pairs": 1}, run={"fsdp": True}), processes=3)
    shares = [list(replace(plan, rank=rank).validation()) for rank in range(3)]
    assert len({len(share) for share in shares}) == 1
    assert sum(counted for share in shares for _, counted in share) == 2 * VALIDATION_DRAWS
    assert timesteps(*shares) == timesteps(list(replace(plan, processes=1).validation()))


def timesteps(*shares: list[tuple[Batch, int]]) -> list[int]:
    """Of the places that count, sorted."""
    return sorted(t for share in shares for batch, counted in share for t in batch.timesteps.tolist()[:counted])


def test_sdxl_is_told_the_sizes_that_the_recipe_says(sdxl: Path, tmp_path: Path) -> None:
    sides = [tiny.picture("red", seed, (64, 40)) for seed in (1, 2)]
    pairs = read_pairs(tiny.write_shards(tmp_path / "shards", [tiny.sample(1, "red box", *sides)]))
    cache = build(tmp_path / "cache", load(str(sdxl)), pairs, flips=False)
    for said, told in (("own", [40, 64, 0, 9, 32, 32]), ("resolution", [32, 32, 0, 0, 32, 32])):
        plan = BatchPlan(recipe(data={"sdxl_sizes": said}), pairs, cache, CPU, 1000, (4, 16, 16), rank=0, processes=1)
        time_ids = plan.batch(0, [BatchSlot(0, 0)]).conditioning.time_ids
        assert time_ids is not None
        assert time_ids.tolist() == [told, told]


def test_work_is_done_ahead_in_order_and_errors_come_at_their_turn() -> None:
    begun: list[int] = []

    def slow(item: int) -> int:
        begun.append(item)
        if item == 4:
            raise ZeroDivisionError
        return item * item

    results = prefetched(slow, range(100), depth=2, threads=1)
    assert next(results) == 0
    while len(begun) < 3:  # two more are begun before they are asked for
        time.sleep(0.001)
    assert [next(results), next(results), next(results)] == [1, 4, 9]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert max(begun) <= 6
