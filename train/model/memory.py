"""How much memory this process has needed, and what is done and said when there is too little."""

import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from train.errors import MemoryFullError

REFUSED = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")  # torch, drivers, libraries
Result = TypeVar("Result")


def peak_memory_bytes(device: torch.device) -> int:
    """The most that was held at once: on the accelerator by tensors, on the CPU by the whole process."""
    if device.type == "cpu":
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024  # kibibytes, but for macOS
    return int(torch.accelerator.max_memory_allocated(device))


def forget_peak(device: torch.device) -> None:
    """Let `peak_memory_bytes` begin anew; the CPU's, the system's, cannot."""
    if device.type != "cpu":
        torch.accelerator.reset_peak_memory_stats(device)


def memory_full(error: Exception) -> bool:
    """Whether it says that an allocation was refused, by the CPU or an accelerator."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(words in str(error) for words in REFUSED)


@contextmanager
def enough_memory(advice: str) -> Iterator[None]:
    """Turn a refused allocation into `advice`, what to change. Raises: MemoryFullError."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not memory_full(error):
            raise
        raise MemoryFullError(f"There is not enough memory {advice}") from error


@contextmanager
def on_device(module: torch.nn.Module, device: torch.device) -> Iterator[None]:
    """A module on `device`, and off it again."""
    module.to(device)
    try:
        yield
    finally:
        module.to("cpu")


class AtOnce:
    """How many items go through a model at once; being out of memory halves that for good.

    padded: `work` fills up its items to `count`, so that fewer of them need no less memory.
    """

    def __init__(self, count: int, *, padded: bool = False) -> None:
        self.count, self.padded = count, padded

    def run(self, total: int, work: Callable[[int, int], Result]) -> list[Result]:
        """What work(start, stop) gives over 0 to `total`, in order.

        Raises: what `work` raises, of memory too where one item is too many.
        """
        results: list[Result] = []
        start = 0
        while start < total:
            stop = min(total, start + self.count)
            found = self._tried(work, start, stop)
            if found is not None:
                results.append(found)
                start = stop
        return results

    def _tried(self, work: Callable[[int, int], Result], start: int, stop: int) -> Result | None:
        try:
            return work(start, stop)
        except (MemoryError, RuntimeError) as error:
            tried = self.count if self.padded else stop - start
            if tried == 1 or not memory_full(error):
                raise
        self.count = tried // 2  # here, where the traceback no longer holds the tensors
        return None
