"""The world of the reproduction: judged prompts, their pictures by the base model, and the prompts kept apart.

<work>/base/      the base model, half trained, so that its pictures differ
       world.npz  pictures, truths; what depends on neither seed nor accuracy
"""

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Int

from benchmarks.reproduction.base import STEPS as BASE_STEPS, Base, draw, open_base
from benchmarks.reproduction.pictures import colourfulness, embed_captions, truths, unique_captions
from curate.storage.tables import atomic_path

SEED = 2024
PROMPTS, PAIRS_PER_PROMPT = 1024, 12
HELD_OUT_PROMPTS = 256  # for validation, and as many again for the test
SETTINGS = tuple(product((1.0, 2.0, 3.0), (3, 5, 8)))  # guidance scales and steps, as careless to careful as the demo's


@dataclass(frozen=True)
class World:
    """Pair i is of pictures 2 i and 2 i + 1 and of prompt i // PAIRS_PER_PROMPT."""

    prompts: list[str]
    validation_prompts: list[str]
    test_prompts: list[str]
    pictures: np.ndarray  # (2 * pairs, 16, 16, 3) uint8
    truth: Float[np.ndarray, " picture"]
    colourfulness: Float[np.ndarray, " picture"]

    @property
    def pairs(self) -> int:
        return len(self.pictures) // 2

    @property
    def prompt_of_pair(self) -> Int[np.ndarray, " pair"]:
        return np.arange(self.pairs) * len(self.prompts) // self.pairs


@dataclass(frozen=True)
class Size:
    """How large a world is; tests make smaller ones."""

    prompts: int = PROMPTS
    held_out: int = HELD_OUT_PROMPTS
    base_steps: int = BASE_STEPS


FULL = Size()


def open_world(work: Path, size: Size = FULL) -> tuple[World, Base]:
    """The world in `work`, made when it is not there. The base has seen neither validation nor test prompts.

    Raises: ValueError when `work` holds a world of another size.
    """
    judged, validation, test = all_captions(size)
    base = open_base(work / "base", SEED, left_out=[*validation, *test], steps=size.base_steps)
    path = work / "world.npz"
    if not path.exists():
        pictures = draw_pictures(base, judged)
        shown = pictures.astype(np.float32) / 255
        captions = [caption for caption in judged for _ in range(2 * PAIRS_PER_PROMPT)]
        with atomic_path(path) as temporary, temporary.open("wb") as stream:
            np.savez(stream, pictures=pictures, truth=truths(shown, captions), colourfulness=colourfulness(shown))
    with np.load(path) as held:
        world = World(judged, validation, test, held["pictures"], held["truth"], held["colourfulness"])
    if world.pairs != len(judged) * PAIRS_PER_PROMPT:
        raise ValueError(f"{path} holds {world.pairs} pairs, not those of {size.prompts} prompts; give another --work")
    return world, base


def all_captions(size: Size) -> tuple[list[str], list[str], list[str]]:
    """(judged prompts, validation prompts, test prompts): no caption is in two of them."""
    captions = unique_captions(np.random.default_rng((SEED, 0)), size.prompts + 2 * size.held_out)
    first, second = size.prompts, size.prompts + size.held_out
    return captions[:first], captions[first:second], captions[second:]


def draw_pictures(base: Base, prompts: list[str]) -> np.ndarray:
    """Every picture of every prompt, each under a setting drawn evenly, (picture, 16, 16, 3) uint8."""
    rng = np.random.default_rng((SEED, 1))
    count = len(prompts) * 2 * PAIRS_PER_PROMPT
    setting, prompt = rng.integers(len(SETTINGS), size=count), np.arange(count) // (2 * PAIRS_PER_PROMPT)
    pictures = np.empty((count, 16, 16, 3), np.uint8)
    for number, (guidance, steps) in enumerate(SETTINGS):
        alike = np.flatnonzero(setting == number)
        embeds = torch.from_numpy(embed_captions([prompts[row] for row in prompt[alike]]))
        noise = torch.randn(len(alike), 3, 16, 16, generator=torch.Generator().manual_seed(SEED + number))
        drawn = draw(cast(Any, base.denoiser), embeds, noise, steps=steps, guidance=guidance)
        pictures[alike] = np.rint(drawn * 255)
    return pictures
