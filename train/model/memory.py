"""How much memory this process has needed, and what is said when there is too little."""

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from train.errors import MemoryFullError

REFUSED = ("can't allocate memory", "not enough memory", "out of memory")  # as torch and drivers say it


def peak_memory_bytes(device: torch.device) -> int:
    """The most that was held at once: on the accelerator by tensors, on the CPU by the whole process."""
    if device.type == "cpu":
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024  # kibibytes, but for macOS
    return int(torch.accelerator.max_memory_allocated(device))


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
