"""Work in the background, in order and bounded: items made ahead of their use, and work done behind it."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")


@contextmanager
def prefetched(items: Iterable[T], depth: int) -> Iterator[Iterator[T]]:
    """The same items in the same order, each made in a background thread before it is asked for.

    At most `depth` items wait or are being made, beside the one in the consumer's hands. An error of the maker is
    raised where its item would have come. At the block's end the maker has stopped.
    """
    iterator = iter(items)
    over: Any = object()
    with ThreadPoolExecutor(1, "ahead") as pool:
        waiting = deque(pool.submit(next, iterator, over) for _ in range(depth))

        def taken() -> Iterator[T]:
            while (item := waiting.popleft().result()) is not over:
                waiting.append(pool.submit(next, iterator, over))
                yield item
                del item  # a generator that waits must not keep the last item alive

        try:
            yield taken()
        finally:
            for future in waiting:
                future.cancel()
            if isinstance(items, Iterator) and hasattr(items, "close"):
                pool.submit(items.close).result()


@contextmanager
def written_behind(work: Callable[[T], None]) -> Iterator[Callable[[T], None]]:
    """Gives `put(item)`, which has `work(item)` done in a background thread while the caller goes on, one at a time.

    `put` waits for the item before. An error of the work is raised by the next `put`, or at the block's end.
    """
    pending: list[Future[None]] = []
    with ThreadPoolExecutor(1, "behind") as pool:

        def put(item: T) -> None:
            if pending:
                pending.pop().result()
            pending.append(pool.submit(work, item))

        yield put
        if pending:
            pending.pop().result()
