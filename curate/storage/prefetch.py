"""Work in the background, in order and bounded: items made ahead of their use, and work done behind it."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class _End:
    """The last message: the items are over, or failed."""

    error: BaseException | None


@contextmanager
def prefetched(items: Iterable[T], depth: int) -> Iterator[Iterator[T]]:
    """The same items in the same order, each made in a background thread before it is asked for.

    At most `depth` items wait or are being made, beside the one in the consumer's hands. An error of the maker is
    raised where its item would have come. At the block's end the maker has stopped.
    """
    ready: queue.SimpleQueue[Any] = queue.SimpleQueue()
    free = threading.Semaphore(depth)
    stopped = threading.Event()
    maker = threading.Thread(target=_make, args=(items, ready, free, stopped), name="ahead", daemon=True)
    maker.start()
    try:
        yield _taken(ready, free)
    finally:
        stopped.set()
        free.release()
        maker.join()


def _make(items: Iterable[T], ready: Any, free: threading.Semaphore, stopped: threading.Event) -> None:
    error: BaseException | None = None
    iterator, over = iter(items), object()
    try:
        while True:
            free.acquire()
            if stopped.is_set() or (item := next(iterator, over)) is over:
                break
            ready.put(item)
            del item  # what was handed over is kept alive by its taker alone
    except BaseException as raised:  # whatever it is, it belongs to the consumer
        error = raised
    finally:
        if isinstance(items, Iterator) and hasattr(items, "close"):
            items.close()
        ready.put(_End(error))


def _taken(ready: Any, free: threading.Semaphore) -> Iterator[T]:
    while True:
        item = ready.get()
        if isinstance(item, _End):
            if item.error is not None:
                raise item.error
            return
        free.release()
        yield item
        del item  # a generator that waits must not keep the last item alive


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
