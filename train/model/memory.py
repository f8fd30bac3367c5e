"""How much memory this process has needed."""

import resource
import sys

import torch


def peak_memory_bytes(device: torch.device) -> int:
    """The most that was held at once: on the accelerator by tensors, on the CPU by the whole process."""
    if device.type == "cpu":
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024  # kibibytes, but for macOS
    return int(torch.accelerator.max_memory_allocated(device))


FULL = ("can't allocate memory", "not enough memory", "out of memory")


def memory_full(error: Exception) -> bool:
    """Whether it says that an allocation was refused, by the CPU or an accelerator."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(words in str(error) for words in FULL)
