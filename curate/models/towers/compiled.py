"""torch.compile for the picture's encoder: two batch sizes, so that it is compiled twice."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch

from curate.models.batch_limit import BatchLimit

PIECES = 8
MOST_COMPILED = 64  # Dynamo's 8 is for all towers of one class together


@runtime_checkable
class Compilable(Protocol):
    """A tower whose picture encoder can be replaced by a compiled one."""

    image_features: Callable[[torch.Tensor], torch.Tensor]


class StaticBatch:
    """(n, 3, height, width) -> (n, dimension), compiled for batches of `limit.size` pictures, and of an eighth of that.

    A smaller batch, such as a part's last one, goes through in eighths; what the last of these lacks is zeros, cut off
    again. Any other size would be compiled anew. Halving the limit compiles twice more.
    """

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor], limit: BatchLimit) -> None:
        torch._dynamo.config.recompile_limit = MOST_COMPILED
        self.function = torch.compile(function, dynamic=False)
        self.limit = limit

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        whole = self.limit.size or len(pixels)
        piece = -(-whole // PIECES)
        size = piece if len(pixels) <= whole - piece else whole
        return torch.cat([self._of_size(size, pixels[start : start + size]) for start in range(0, len(pixels), size)])

    def _of_size(self, size: int, pixels: torch.Tensor) -> torch.Tensor:
        count = len(pixels)
        # What inference mode makes is another kind of tensor to the compiler, and would be compiled for anew; so would
        # a view of what it made.
        with torch.inference_mode(False):
            if count < size:
                pixels = torch.nn.functional.pad(pixels, (0, 0, 0, 0, 0, 0, 0, size - count))  # keeps channels last
            elif pixels.is_inference():
                pixels = pixels.clone()
        return self.function(pixels)[:count]
