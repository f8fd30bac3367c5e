"""What came of a training: the policy draws prompts it has not seen, and the hidden truth judges."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.reproduction.base import draw
from benchmarks.reproduction.pictures import Pictures, colourfulness, embed_captions, truths
from benchmarks.reproduction.world import World

DRAW_STEPS = 6
GROUPS = ("validation", "test")


@dataclass(frozen=True)
class Examiner:
    """Prompts of both groups, one after the other, and the noise they are drawn from: one for all arms of a seed."""

    captions: Sequence[str]
    of_group: dict[str, slice]
    embeds: Float[Tensor, "picture token width"]
    noise: Float[Tensor, "picture 3 16 16"]
    base_truth: Float[np.ndarray, " picture"]
    base_pictures: Pictures

    def examine(self, policy: torch.nn.Module) -> tuple[dict[str, float], Pictures]:
        """Means over each group's pictures, and the pictures.

        truth: change of the mean truth against the base. wins: share of pictures better than the base's from the same
        noise. colour: change of the mean colourfulness. moved: root mean square distance to the base's pictures, in
        per cent of the range of RGB.
        """
        pictures = draw(policy, self.embeds, self.noise, steps=DRAW_STEPS)
        gained = truths(pictures, self.captions) - self.base_truth
        colour = colourfulness(pictures) - colourfulness(self.base_pictures)
        moved = 100 * np.sqrt(np.square(pictures - self.base_pictures).mean(axis=(1, 2, 3)))
        found: dict[str, float] = {}
        for group, rows in self.of_group.items():
            found[f"{group}_truth"] = float(gained[rows].mean())
            found[f"{group}_wins"] = float((gained[rows] > 0).mean() + 0.5 * (gained[rows] == 0).mean())
        test = self.of_group["test"]
        found["colour"], found["moved"] = float(colour[test].mean()), float(moved[test].mean())
        return found, pictures


def make_examiner(world: World, base: torch.nn.Module, seed: int) -> Examiner:
    """The examiner of one seed."""
    captions = [*world.validation_prompts, *world.test_prompts]
    middle = len(world.validation_prompts)
    embeds = torch.from_numpy(embed_captions(captions))
    noise = torch.randn(len(captions), 3, 16, 16, generator=torch.Generator().manual_seed(77_000 + seed))
    pictures = draw(base, embeds, noise, steps=DRAW_STEPS)
    of_group = {"validation": slice(0, middle), "test": slice(middle, len(captions))}
    return Examiner(captions, of_group, embeds, noise, truths(pictures, captions), pictures)
