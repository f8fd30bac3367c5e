"""How many items go through a model at once: fewer once memory does not hold them."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable
from typing import TypeVar

import torch

from curate.errors import ModelError
from curate.terminal.progress import say

R = TypeVar("R")
REFUSALS = re.compile(
    r"out of memory"  # CUDA, its driver, Triton, and torch of what others take beside its allocator
    r"|ALLOC(ATION)?_FAILED"  # cuBLAS, cuDNN
    r"|unable to find (an engine to execute|a valid cuDNN algorithm)"  # cuDNN, where no workspace fits
    r"|(nvjpeg\w* failed|Failed to \w+ [\w ]*(jpeg|batch|buffer|decod)[\w ]*): 5\b"  # nvJPEG: its allocator
    r"|can't allocate memory|bad_alloc",  # the machine
    re.IGNORECASE,
)

BROKEN = re.compile(r"CUDA (driver )?error|cuDNN error|CUBLAS_STATUS|Triton Error \[CUDA\]|No CUDA GPUs|NVIDIA driver")


class BatchLimit:
    """`size` items at once, None for all that are given; being out of memory halves it for good."""

    def __init__(self, size: int | None = None, of: str = "pictures") -> None:
        self.size = size
        self.of = of
        self.said = False

    def run(self, total: int, work: Callable[[int, int], R]) -> list[R]:
        """The results of work(start, stop) over 0 to `total`, in order. Raises: ModelError when one is too many."""
        results: list[R] = []
        start = 0
        while start < total:
            stop = min(total, start + (self.size or total))
            result = self._tried(work, start, stop)
            if result is not None:
                results.append(result)
                start = stop
        return results

    def _tried(self, work: Callable[[int, int], R], start: int, stop: int) -> R | None:
        try:
            return work(start, stop)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            if stop - start == 1:
                raise ModelError(
                    f"out of memory with one of the {self.of} at a time ({first_sentence(error)}); free some, use "
                    "--precision bf16, or fewer --scorers at once"
                ) from error
        free_memory()  # here, where the traceback no longer holds the tensors
        tried, self.size = stop - start, (stop - start) // 2
        if not self.said:
            self.said = True
            say(f"out of memory with {tried} {self.of} at once: going on with {self.size}, and with fewer if need be")
        return None


def out_of_memory(error: BaseException) -> bool:
    """Whether torch, a CUDA library or the machine refused memory."""
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return known or (isinstance(error, RuntimeError) and REFUSALS.search(str(error)) is not None)


def device_failed(error: BaseException) -> bool:
    """Whether it is the device that failed or is gone, for good as far as this process goes."""
    known = isinstance(error, torch.AcceleratorError) or BROKEN.search(str(error)) is not None
    return isinstance(error, RuntimeError) and known and not out_of_memory(error)


def free_memory() -> None:
    """Give back what torch keeps for later."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def first_sentence(error: BaseException) -> str:
    """Of torch's long message."""
    return str(error).split(". ")[0].split("\n")[0].removesuffix(".")
