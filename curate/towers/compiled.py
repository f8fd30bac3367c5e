"""torch.compile for the picture's encoder: one batch size, so that it is compiled once."""

from collections.abc import Callable
from typing import Protocol

import torch


class Limit(Protocol):
    """`size` is how many pictures go through the towers at once; None: as many as there are."""

    size: int | None


class StaticBatch:
    """(n, 3, height, width) -> (n, dimension), compiled for batches of `limit.size` pictures.

    A smaller batch, such as a part's last one, is filled up with zeros and cut again: it would be compiled anew
    otherwise, and by other kernels. Halving the limit compiles once more.
    """

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor], limit: Limit) -> None:
        self.function = torch.compile(function, dynamic=False)
        self.limit = limit

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        missing = (self.limit.size or len(pixels)) - len(pixels)
        if missing > 0:
            pixels = torch.cat([pixels, pixels.new_zeros(missing, *pixels.shape[1:])])
        return self.function(pixels)[: len(pixels) - max(missing, 0)]
