"""Work done in threads before it is asked for, in order."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetched(
    function: Callable[[Item], Result], items: Iterable[Item], *, depth: int, threads: int
) -> Generator[Result]:
    """`function` of each item, in order, begun up to `depth` items before its turn.

    An exception of `function` is raised where its result would have been. Close the generator to stop early.
    """
    # From Python 3.14 on `pool.map(function, items, buffersize=…)`; before, `map` takes all items at once.
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > depth:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
