"""Batches of encoded images to pixels, in order, by a pool of threads or of processes.

Threads do on a CPU: Pillow and torch release the GIL while they decode and resize. Where a GPU waits for this
process to start its kernels, processes keep the GIL free; they also outlive a decoder that crashes on an image.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from inspect import ismethod

import torch

from curate.embed.decode.decoders import Decoder
from curate.embed.decode.preprocess import (
    CHUNK_IMAGES,
    DecodedFacts,
    PixelLayout,
    Pixels,
    Preprocessors,
    layouts,
    prepare,
)
from curate.embed.decode.processes import DecodeProcesses
from curate.embed.decode.reading import Batch
from curate.embed.options import CORES
from curate.embed.planning.plan import Part
from curate.sources.images import Rejected
from curate.sources.parquet import Location
from curate.terminal.progress import say

ChunkWork = Callable[[list[bytes | None], Pixels], list[DecodedFacts | Rejected]]


@dataclass(frozen=True)
class Prepared:
    """A decoded batch: `results` has an entry for each of `places`, `pixels` a row for each that is no Rejected."""

    part: Part
    places: list[tuple[str, Location]]
    results: list[DecodedFacts | Rejected]
    pixels: Pixels
    last: bool


class DecodePool:
    """Prepares batches in order, several at once; `decode_pool` opens one."""

    def __init__(
        self, pool: ThreadPoolExecutor, work: ChunkWork, layout: dict[str, PixelLayout], ahead: int, pinned: bool
    ) -> None:
        self.pool, self.work, self.layout, self.ahead, self.pinned = pool, work, layout, ahead, pinned

    def batches(self, batches: Iterable[Batch]) -> Iterator[Prepared]:
        """Each batch decoded, in order, while the pool works on at most `ahead` batches after it."""
        waiting: deque[Callable[[], Prepared]] = deque()
        for batch in batches:
            waiting.append(self._start(batch))
            del batch  # what waits is bounded only if nothing else holds it
            if len(waiting) > self.ahead:
                yield waiting.popleft()()
        while waiting:
            yield waiting.popleft()()

    def _start(self, batch: Batch) -> Callable[[], Prepared]:
        """Hand a batch to the pool; what is returned waits for it, and does not hold its encoded bytes."""
        count = len(batch.images)
        pixels = {
            key: torch.empty((count, *one.shape), dtype=one.dtype, pin_memory=self.pinned)
            for key, one in self.layout.items()
        }
        futures: list[Future[list[DecodedFacts | Rejected]]] = []
        for start in range(0, count, CHUNK_IMAGES):
            rows = slice(start, start + CHUNK_IMAGES)
            encoded = [image.data for image in batch.images[rows]]
            futures.append(self.pool.submit(self.work, encoded, {key: values[rows] for key, values in pixels.items()}))
        places = [(image.image_uid, image.location) for image in batch.images]
        part, last = batch.part, batch.last

        def finish() -> Prepared:
            results = [result for future in futures for result in future.result()]
            kept = [index for index, result in enumerate(results) if not isinstance(result, Rejected)]
            return Prepared(part, places, results, compact(pixels, kept), last)

        return finish


def compact(pixels: Pixels, kept: list[int]) -> Pixels:
    """The kept rows alone, in order, moved to the front in place."""
    for values in pixels.values():
        for new, old in enumerate(kept):
            if new != old:
                values[new].copy_(values[old])
    return {key: values[: len(kept)] for key, values in pixels.items()}


@contextmanager
def decode_pool(
    decode: Decoder,
    preprocessors: Preprocessors,
    batch_images: int,
    threads: int,
    processes: int = 0,
    pinned: bool = False,
) -> Iterator[DecodePool]:
    """A decoder over `processes` processes, or over `threads` threads of this one where that is 0."""
    layout = layouts(preprocessors)
    if processes and any(map(ismethod, preprocessors.values())):
        say("note: a scorer's `preprocess` is a method, which would take its weights along: decoding in threads")
        processes = 0
    with ExitStack() as stack:
        work: ChunkWork = partial(prepare, decode, preprocessors)
        if processes:
            work = stack.enter_context(DecodeProcesses(decode, preprocessors, layout)).prepare
        pool = ThreadPoolExecutor(processes or threads, "decode")
        stack.callback(pool.shutdown, cancel_futures=True)
        yield DecodePool(pool, work, layout, batches_ahead(batch_images, processes or threads), pinned)


def batches_ahead(batch_images: int, workers: int) -> int:
    """Batches that are decoded ahead of the one that is waited for: one, or enough to give each worker two chunks."""
    return max(1, -(-2 * workers * CHUNK_IMAGES // batch_images))


def default_decode_processes(device: str, decode: str = "pillow", cores: int | None = None) -> int:
    """None on the CPU, where threads do as well, nor for nvjpeg; else the cores that each GPU has, less two.

    The two are for the thread that starts the kernels, and for reading and writing.
    """
    if decode == "nvjpeg" or not device.startswith("cuda"):
        return 0
    return max(1, (cores or CORES // max(1, torch.cuda.device_count())) - 2)
