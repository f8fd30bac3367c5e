"""torch.compile for the picture's encoder: one batch size, so that it is compiled once."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch

from curate.models.batch_limit import BatchLimit


@runtime_checkable
class Compilable(Protocol):
    """A tower whose picture encoder can be replaced by a compiled one."""

    image_features: Callable[[torch.Tensor], torch.Tensor]


class StaticBatch:
    """(n, 3, height, width) -> (n, dimension), compiled for batches of `limit.size` pictures.

    A smaller batch, such as a part's last one, is filled up with zeros and cut again: it would be compiled anew
    otherwise, and by other kernels. Halving the limit compiles once more.
    """

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor], limit: BatchLimit) -> None:
        self.function = torch.compile(function, dynamic=False)
        self.limit = limit

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        count = len(pixels)
        missing = max(0, (self.limit.size or count) - count)
        # What inference mode makes is another kind of tensor to the compiler, and would be compiled for anew.
        with torch.inference_mode(False):
            if missing:
                pixels = torch.nn.functional.pad(pixels, (0, 0, 0, 0, 0, 0, 0, missing))  # keeps channels last
            elif pixels.is_inference():
                pixels = pixels.clone()
        return self.function(pixels)[:count]
