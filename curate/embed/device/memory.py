"""What the allocators keep of freed memory, given back to the operating system between the steps of a large job."""

import ctypes
from collections.abc import Callable
from functools import cache

import pyarrow as pa


def give_back() -> None:
    """Each allocator keeps what was freed for its own next request, where no other can use it: arrow's, and C's."""
    pa.default_memory_pool().release_unused()
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    """glibc's; other C libraries have none. https://man7.org/linux/man-pages/man3/malloc_trim.3.html"""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
