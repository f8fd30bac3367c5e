"""This machine: a thread pool that prepares pictures while the towers compute."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def batched(items: list[T], size: int) -> Iterator[list[T]]:
    """Slices of at most `size`, in order."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def map_ahead(
    pool: ThreadPoolExecutor, work: Callable[[T], R], batches: Iterator[list[T]], depth: int = 2
) -> Iterator[tuple[list[T], list[R]]]:
    """Each batch with its results, in order, while the pool works on at most `depth` batches ahead.

    Pillow and torch release the GIL while they decode and resize, so threads do; memory holds
    `depth + 1` batches of results.
    """
    waiting: deque[tuple[list[T], list[Future[R]]]] = deque()
    for batch in batches:
        waiting.append((batch, [pool.submit(work, item) for item in batch]))
        if len(waiting) > depth:
            yield _finished(*waiting.popleft())
    while waiting:
        yield _finished(*waiting.popleft())


def in_threads(work: Callable[[T], R], items: Iterable[T], threads: int) -> Iterator[R]:
    """`work` of each item, in order, by several threads; at most two items a thread are begun and not yet yielded.

    When one fails, those begun are waited for and no other is begun.
    """
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[R]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) >= 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _finished(batch: list[T], futures: list[Future[R]]) -> tuple[list[T], list[R]]:
    return batch, [future.result() for future in futures]
