"""Which pairs make up which batch, and the batches themselves, assembled a little ahead of their turn."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int

from train.config import Recipe
from train.data.latents import Batch, Encoded, assemble
from train.data.pairs import PairSet, ShapePx
from train.data.prefetch import prefetched
from train.data.random_draws import HELD_OUT, Draw, PairOrder, draw, positions
from train.errors import ShardError
from train.model.families import LatentShape

AHEAD = 3  # micro-batches that wait for their turn
VALIDATION_DRAWS = 4  # timesteps and noises for each held-out pair


class Place(NamedTuple):
    """A position in a step's batch, and the pair that has it."""

    position: int
    pair: int


@dataclass(frozen=True)
class BatchPlan:
    """Every batch of a run, by (step, position); nothing else decides what is in it."""

    recipe: Recipe
    pairs: PairSet
    encoded: Encoded
    device: torch.device
    timesteps: int  # of the noise schedule
    latent_shape: LatentShape  # of the square of data.resolution_px
    rank: int
    processes: int

    @cached_property
    def micro_steps(self) -> list[list[int]]:
        """The positions that this process works through in each step."""
        run = self.recipe.run
        return positions(run.batch_pairs, run.micro_batch_pairs, self.rank, self.processes)

    @cached_property
    def split(self) -> tuple[Int[np.ndarray, " pair"], Int[np.ndarray, " held_out"]]:
        """The pairs to train on and those held out, as indices in rank order."""
        return split(self.pairs, self.recipe)

    @cached_property
    def _order(self) -> PairOrder:
        data, training = self.recipe.data, self.split[0]
        weights = self.pairs.weights("quality", "data.order")[training] if data.order == "weighted" else None
        return PairOrder(self.recipe.run.seed, len(training), data.order, weights)

    @cached_property
    def _worth(self) -> tuple[Float[np.ndarray, " pair"] | None, Float[np.ndarray, " pair"] | None]:
        """The weight and the offset of each pair, where the objective has them."""
        objective = self.recipe.objective
        weigh, shift = objective.weight_by, objective.offset_by
        weights = None if weigh is None else self.pairs.weights(weigh, "objective.weight_by")
        offsets = None if shift is None else self.pairs.value(shift, "objective.offset_by") * objective.offset_scale
        return weights, offsets

    def check(self) -> None:
        """Look at everything that may be refused, before the first step. Raises: ShardError."""
        _ = self.split, self._order, self._worth

    def micro_batches(self, step: int) -> list[list[Place]]:
        """What this process works through in `step`, counted from 0: one shape of picture to a micro-batch."""
        first, training = step * self.recipe.run.batch_pairs, self.split[0]
        places = (place for micro_step in self.micro_steps for place in micro_step)
        return self._grouped([Place(place, int(training[self._order.pair_at(first + place)])) for place in places])

    def batch(self, step: int, places: list[Place]) -> Batch:
        """One micro-batch of `step`."""
        return self._assembled([self._draw(step, *place) for place in places])

    def validation(self) -> Iterator[tuple[Batch, int]]:
        """This process's micro-batches of the held-out pairs, the same at every call, and how many places count.

        With spread weights the processes work in step, so one that has a place less repeats some that do not count.
        """
        held_out = self.split[1]
        count = len(held_out) * VALIDATION_DRAWS
        end = -(-count // self.processes) * self.processes if self.recipe.run.fsdp else count
        own = range(self.rank, end, self.processes)
        for places in self._grouped([Place(place, int(held_out[place % len(held_out)])) for place in own]):
            batch = self._assembled([self._draw(0, *place, validation=True) for place in places])
            yield batch, sum(place.position < count for place in places)

    def prompts(self, count: int) -> list[str]:
        """The first prompts to draw pictures of while training: held-out ones if there are any."""
        training, held_out = self.split
        shown = dict.fromkeys(self.pairs.pairs[int(pair)].prompt for part in (held_out, training) for pair in part)
        return [self.pairs.prompts[prompt] for prompt in list(shown)[:count]]

    def _grouped(self, places: list[Place]) -> list[list[Place]]:
        groups: dict[ShapePx, list[Place]] = {}
        for place in places:
            groups.setdefault(self._shape_px(place.pair), []).append(place)
        size = self.recipe.run.micro_batch_pairs
        return [group[start : start + size] for group in groups.values() for start in range(0, len(group), size)]

    def _shape_px(self, pair: int) -> ShapePx:
        return self.pairs.shape_px(self.pairs.pairs[pair].preferred, self.recipe.data.resolution_px)

    def _draw(self, step: int, place: int, pair: int, *, validation: bool = False) -> Draw:
        channels, side, _ = self.latent_shape
        factor = self.recipe.data.resolution_px // side
        height_px, width_px = self._shape_px(pair)
        return draw(
            self.recipe.run.seed,
            step,
            place,
            pair=pair,
            timesteps=self.timesteps,
            latent_shape=(channels, height_px // factor, width_px // factor),
            data=self.recipe.data,
            validation=validation,
        )

    def _assembled(self, draws: list[Draw]) -> Batch:
        weights, offsets = self._worth
        batch = assemble(self.encoded, self.pairs, draws, weights=weights, offsets=offsets)
        return batch.to(self.device, channels_last=self.recipe.run.channels_last)


class BatchStream:
    """The micro-batches of steps `first_step` and later, in order; it knows how long it was waited for."""

    def __init__(self, plan: BatchPlan, first_step: int) -> None:
        plan.check()
        steps = range(first_step, plan.recipe.run.steps)
        todo = (
            (step, places, number == len(micro_batches))
            for step in steps
            for micro_batches in [plan.micro_batches(step)]
            for number, places in enumerate(micro_batches, start=1)
        )
        self._batches = prefetched(lambda one: (plan.batch(*one[:2]), one[2]), todo, depth=AHEAD, threads=1)
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
        self._batches.close()  # type: ignore[attr-defined]


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
