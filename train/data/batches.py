"""Which pairs make up which batch, and the batches themselves, assembled a little ahead of their turn."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int

from train.config import Recipe
from train.data.latents import Batch, LatentSource, assemble
from train.data.pairs import PairSet, ShapePx
from train.data.prefetch import prefetched
from train.data.random_draws import HELD_OUT, PairOrder, draw, positions
from train.errors import ShardError
from train.model.families import LatentShape

PREFETCH_DEPTH = 3  # micro-batches that wait for their turn
VALIDATION_DRAWS = 4  # timesteps and noises for each held-out pair


class BatchSlot(NamedTuple):
    """A position in a step's batch, and the pair that has it."""

    position: int
    pair: int


@dataclass(frozen=True)
class BatchPlan:
    """Every batch of a run, by (step, position); nothing else decides what is in it."""

    recipe: Recipe
    pairs: PairSet
    encoded: LatentSource
    device: torch.device
    timesteps: int  # of the noise schedule
    latent_shape: LatentShape  # of the square of data.resolution_px
    rank: int
    processes: int

    @cached_property
    def micro_steps(self) -> list[list[int]]:
        """The positions that this process works through in each step."""
        run = self.recipe.run
        return positions(run.batch_pairs, run.pairs_at_once, self.rank, self.processes)

    @cached_property
    def split(self) -> tuple[Int[np.ndarray, " pair"], Int[np.ndarray, " held_out"]]:
        """The pairs to train on and those held out, as indices in rank order."""
        return split(self.pairs, self.recipe)

    @cached_property
    def _pair_order(self) -> PairOrder:
        data, training = self.recipe.data, self.split[0]
        weights = self.pairs.weights("quality", "data.order")[training] if data.order == "weighted" else None
        return PairOrder(self.recipe.run.seed, len(training), data.order, weights)

    @cached_property
    def _of_pairs(self) -> dict[str, Float[np.ndarray, " pair"]]:
        """What `objectives.pair_loss` takes of each pair, where the objective has it."""
        objective, pairs, found = self.recipe.objective, self.pairs, {}
        if objective.weight_by is not None:
            found["weights"] = pairs.weights(objective.weight_by, "objective.weight_by")
        if objective.beta_by is not None:
            found["betas"] = pairs.weights(objective.beta_by, "objective.beta_by")
        if objective.offset_by is not None:
            found["offsets"] = pairs.value(objective.offset_by, "objective.offset_by") * objective.offset_scale
        if objective.label_smoothing_by is not None:
            found["smoothings"] = pairs.smoothings(objective.label_smoothing_by, "objective.label_smoothing_by")
        return found

    def check(self) -> None:
        """Look at everything that may be refused, before the first step. Raises: ShardError."""
        _ = self.split, self._pair_order, self._of_pairs

    def micro_batches(self, step: int) -> list[list[BatchSlot]]:
        """What this process works through in `step`, counted from 0: one shape of picture to a micro-batch."""
        first, training = step * self.recipe.run.batch_pairs, self.split[0]
        slots = [BatchSlot(at, int(training[self._pair_order.pair_at(first + at)])) for at in chain(*self.micro_steps)]
        return self._by_shape(slots)

    def batch(self, step: int, slots: list[BatchSlot], *, validation: bool = False) -> Batch:
        """One micro-batch of `step`; its pairs are of one shape."""
        run, data = self.recipe.run, self.recipe.data
        channels, side, _ = self.latent_shape
        factor = data.resolution_px // side
        height_px, width_px = self._shape_px(slots[0].pair)
        shape = (channels, height_px // factor, width_px // factor)
        of_slot = partial(
            draw, run.seed, step, timesteps=self.timesteps, latent_shape=shape, data=data, validation=validation
        )
        draws = [of_slot(position, pair=pair) for position, pair in slots]
        batch = assemble(self.encoded, self.pairs, draws, self._of_pairs)
        if data.sdxl_sizes == "resolution" and batch.conditioning.time_ids is not None:
            batch = batch.told_sizes((height_px, width_px, 0, 0, height_px, width_px))
        return batch.to(self.device, channels_last=run.channels_last)

    def validation(self) -> Iterator[tuple[Batch, int]]:
        """This process's micro-batches of the held-out pairs, the same at every call, and how many of its slots count.

        With spread weights the processes work in step, so one that has a slot less repeats some that do not count.
        """
        held_out = self.split[1]
        count = len(held_out) * VALIDATION_DRAWS
        end = -(-count // self.processes) * self.processes if self.recipe.run.fsdp else count
        own = range(self.rank, end, self.processes)
        for slots in self._by_shape([BatchSlot(at, int(held_out[at % len(held_out)])) for at in own]):
            yield self.batch(0, slots, validation=True), sum(slot.position < count for slot in slots)

    def prompts(self, count: int) -> list[str]:
        """The first prompts to draw pictures of while training: held-out ones if there are any."""
        training, held_out = self.split
        shown = dict.fromkeys(self.pairs.pairs[int(pair)].prompt for part in (held_out, training) for pair in part)
        return [self.pairs.prompts[prompt] for prompt in list(shown)[:count]]

    def _by_shape(self, slots: list[BatchSlot]) -> list[list[BatchSlot]]:
        groups: dict[ShapePx, list[BatchSlot]] = {}
        for slot in slots:
            groups.setdefault(self._shape_px(slot.pair), []).append(slot)
        size = self.recipe.run.pairs_at_once
        return [group[start : start + size] for group in groups.values() for start in range(0, len(group), size)]

    def _shape_px(self, pair: int) -> ShapePx:
        return self.pairs.shape_px(self.pairs.pairs[pair].preferred, self.recipe.data.resolution_px)


class BatchStream:
    """The micro-batches of steps `first_step` and later, in order; it knows how long it was waited for."""

    def __init__(self, plan: BatchPlan, first_step: int) -> None:
        plan.check()
        steps = range(first_step, plan.recipe.run.steps)
        micro_batches = (
            (step, slots, number == len(of_step))
            for step in steps
            for of_step in [plan.micro_batches(step)]
            for number, slots in enumerate(of_step, start=1)
        )
        self._batches = prefetched(
            lambda one: (plan.batch(*one[:2]), one[2]), micro_batches, depth=PREFETCH_DEPTH, threads=1
        )
        self._waited_sec = 0.0

    def __next__(self) -> tuple[Batch, bool]:
        """The next micro-batch, and whether it is the last of its step."""
        began = time.perf_counter()
        batch = next(self._batches)
        self._waited_sec += time.perf_counter() - began
        return batch

    def waited_sec(self) -> float:
        """Seconds waited since the last call."""
        waited, self._waited_sec = self._waited_sec, 0.0
        return waited

    def close(self) -> None:
        self._batches.close()


def split(pairs: PairSet, recipe: Recipe) -> tuple[Int[np.ndarray, " pair"], Int[np.ndarray, " held_out"]]:
    """Indices of the pairs to train on, and of at least `data.validation_pairs` held out.

    Prompts are held out whole, in an order that the seed decides, so no held-out pair's prompt is trained on.
    Raises: ShardError when nothing would be left to train on.
    """
    wanted = recipe.data.validation_pairs or 0
    prompts = np.array([pair.prompt for pair in pairs.pairs])
    order = np.random.default_rng((recipe.run.seed, HELD_OUT)).permutation(len(pairs.prompts))
    sizes = np.bincount(prompts, minlength=len(pairs.prompts))[order]
    taken = order[: int(np.searchsorted(sizes.cumsum(), wanted)) + 1] if wanted else order[:0]
    held_out = np.isin(prompts, taken)
    if held_out.all():
        raise ShardError(
            f"data.validation_pairs is {wanted}, but holding out so many of the {len(prompts)} pairs, prompt by"
            " prompt, leaves none to train on; hold out fewer."
        )
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)
