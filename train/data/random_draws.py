"""Every random choice of training, as a function of (seed, step, position in the step's batch).

Nothing else decides: not what was drawn before, not the number of processes, not the micro-batch size.
So a resumed run replays, and two processes train on the pairs that one would have taken.
"""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from train.config import Data, Timesteps
from train.model.families import LatentShape

_ORDER, _DRAW, _WEIGHTED, HELD_OUT, _VALIDATION = range(5)  # streams of one seed that never meet


@dataclass(frozen=True)
class Draw:
    """What is drawn for one pair at one step: all but the posterior's noise is shared by both images."""

    pair: int
    timestep: int
    flipped: bool
    prompt_dropped: bool
    noise: Float[np.ndarray, "channel height width"]
    posterior_noise: Float[np.ndarray, "2 channel height width"]


def draw(
    seed: int,
    step: int,
    position: int,
    *,
    pair: int,
    timesteps: int,
    latent_shape: LatentShape,
    data: Data,
    validation: bool = False,
) -> Draw:
    """The draw at `position` of the batch of `step` (counted from 0); the timestep is one of {0 ... timesteps - 1}.

    `validation`: from a stream of its own, so that validating changes no training draw.
    """
    generator = np.random.default_rng((seed, _VALIDATION if validation else _DRAW, step, position))
    return Draw(
        pair=pair,
        timestep=drawn_timestep(generator, data.timesteps, timesteps),
        flipped=bool(generator.random() < 0.5) and data.flips,
        prompt_dropped=bool(generator.random() < data.empty_prompt_probability),
        noise=generator.standard_normal(latent_shape, dtype=np.float32),
        posterior_noise=generator.standard_normal((2, *latent_shape), dtype=np.float32),
    )


def drawn_timestep(generator: np.random.Generator, law: Timesteps, timesteps: int) -> int:
    """One of {0 ... timesteps - 1} by `law`; larger means more noise, in every family."""
    if law.only:
        return law.only[int(generator.integers(len(law.only)))]
    if law == Timesteps():
        return int(generator.integers(timesteps))
    share = generator.random()
    if law.law == "logit-normal":
        share = 1 / (1 + math.exp(-generator.normal(law.mean, law.deviation)))
    share = law.shift * share / (1 + (law.shift - 1) * share)
    return min(timesteps - 1, int(timesteps * (law.least + (law.most - law.least) * share)))


@dataclass(frozen=True)
class PairOrder:
    """Which pair is the `index`-th of a run, in epochs of as many as there are; pairs come in rank order.

    shuffled: every epoch in a random order of its own. ranked: best first in every epoch. reversed: best
    last. weighted: with replacement, a pair's chance its weight's share of the sum.
    """

    seed: int
    count: int
    kind: Literal["shuffled", "ranked", "reversed", "weighted"] = "shuffled"
    weights: Float[np.ndarray, " pair"] | None = None

    def pair_at(self, index: int) -> int:
        epoch, index_in_epoch = divmod(index, self.count)
        if self.kind == "ranked":
            return index_in_epoch
        if self.kind == "reversed":
            return self.count - 1 - index_in_epoch
        if self.kind == "weighted":
            share = np.random.default_rng((self.seed, _WEIGHTED, index)).random()
            return int(np.searchsorted(self._cumulative, share * self._cumulative[-1], side="right"))
        return int(_epoch_order(self.seed, self.count, epoch)[index_in_epoch])

    @cached_property
    def _cumulative(self) -> Float[np.ndarray, " pair"]:
        if self.weights is None:
            raise ValueError("a weighted order needs weights")
        return np.cumsum(self.weights)


@lru_cache(maxsize=4)
def _epoch_order(seed: int, count: int, epoch: int) -> Int[np.ndarray, " pair"]:
    return np.random.default_rng((seed, _ORDER, epoch)).permutation(count)


def positions(batch_pairs: int, micro_batch_pairs: int, rank: int, processes: int) -> list[list[int]]:
    """The positions of a step's batch that process `rank` works through, one list per micro-step."""
    own = range(rank, batch_pairs, processes)
    return [list(own[start : start + micro_batch_pairs]) for start in range(0, len(own), micro_batch_pairs)]
