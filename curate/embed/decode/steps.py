"""Preprocessings as steps, which they share, and which run where a picture's pixels lie."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import functional

Preprocess = Callable[..., torch.Tensor]
Picture = Image.Image | torch.Tensor
"""RGB: Pillow's, or uint8 (3, height, width) on any device."""


@dataclass(frozen=True)
class CentreCut:
    """The middle of a picture that is large enough. rounds: torchvision's halves, half to even; else rounded down."""

    height_px: int
    width_px: int
    rounds: bool

    def corner(self, picture: Picture) -> tuple[int, int]:
        """(top, left) in this picture, px."""
        _, height, width = functional.get_dimensions(picture)
        top, left = (height - self.height_px) / 2, (width - self.width_px) / 2
        return (round(top), round(left)) if self.rounds else (int(top), int(left))

    def __call__(self, picture: Picture) -> Picture:
        cut: Picture = functional.crop(picture, *self.corner(picture), self.height_px, self.width_px)
        return cut


class AsFloat:
    """float32 (3, height, width) in [0, 1], where the picture lies: ToTensor's values, sooner."""

    def __call__(self, picture: Picture) -> torch.Tensor:
        if isinstance(picture, torch.Tensor):
            return picture.float() / 255
        planes = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        return planes.to(torch.float32, memory_format=torch.contiguous_format).div_(255)

    def __repr__(self) -> str:
        return "AsFloat()"


class Steps:
    """A preprocessing step by step. Of a picture of Pillow's its values are the whole one's, to the last bit.

    Of pixels on a device a resize rounds to 8 bits as Pillow's does, yet not always to the same value.
    """

    def __init__(self, *steps: Any) -> None:
        self.steps = [(str(step), step) for step in steps]

    def __call__(self, picture: Picture, made: dict[tuple[Any, ...], Any] | None = None) -> torch.Tensor:
        """float32 (3, height, width).

        made: what other preprocessings have made of this picture. Steps that are equal, and stand behind equal ones,
        are done once; a cut by another rule counts as equal where it falls on the same place.
        """
        made = {} if made is None else made
        done: tuple[Any, ...] = ()
        result: Any = picture
        for name, step in self.steps:
            cut = isinstance(step, CentreCut)
            done += ((step.height_px, step.width_px, *step.corner(result)) if cut else name,)
            if done not in made:
                made[done] = step(result)
            result = made[done]
        return result


@dataclass(frozen=True)
class ForPillow:
    """A preprocessing that is not known, for pixels on a device: it gets the picture as Pillow's."""

    preprocess: Preprocess

    def __call__(self, picture: Picture) -> torch.Tensor:
        """What the preprocessing makes of it."""
        return self.preprocess(picture if isinstance(picture, Image.Image) else functional.to_pil_image(picture.cpu()))


def all_pixels(picture: Picture, preprocessors: dict[str, Preprocess]) -> Iterator[tuple[str, torch.Tensor]]:
    """What each preprocessing makes of a picture; steps that they share are done once."""
    made: dict[tuple[Any, ...], Any] = {}
    for name, preprocess in preprocessors.items():
        yield name, preprocess(picture, made) if isinstance(preprocess, Steps) else preprocess(picture)
