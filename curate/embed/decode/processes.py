"""Processes that decode for this one: replaced when they die, gone when this one ends, however it ends.

Each is driven by one thread. Encoded bytes go over a pipe; pixels come back through memory that both map, an unlinked
file, so that a killed process leaves nothing behind and no limit on shared memory (containers give 64 MB) is met.
They are forked by a server that has not started any thread and knows no GPU, and they ignore Ctrl-C: the parent
decides. When the parent dies, its end of the pipe closes and they end.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import pickle
import pickletools
import signal
import sys
import tempfile
import threading
from multiprocessing import forkserver, reduction
from pathlib import Path
from typing import Any

import torch

from curate.embed.decode.decoders import Decoder
from curate.embed.decode.preprocess import CHUNK_IMAGES, DecodedFacts, PixelLayout, Pixels, Preprocessors, prepare
from curate.errors import CurateError
from curate.sources.images import Rejected
from curate.terminal.progress import say

CLOSE_SEC = 5.0


class WorkerDiedError(Exception):
    """A decode process ended while it worked; the message is the signal's name or the exit code."""


class DecodeProcesses:
    """A process for each thread that calls `prepare`; a context that ends them."""

    def __init__(self, decode: Decoder, preprocessors: Preprocessors, layout: dict[str, PixelLayout]) -> None:
        self.pickled = pickle.dumps((decode, preprocessors))
        self.layout = layout
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload([__name__, *modules_in(self.pickled)])
        self.mine = threading.local()
        self.workers: set[Worker] = set()
        self.lock = threading.Lock()  # multiprocessing starts and reaps processes from one thread at a time

    def __enter__(self) -> DecodeProcesses:
        # The server imports from its working folder first, where a user's own `curate.py` or `schemas` may lie.
        ours = {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)}
        before = {name: os.environ.get(name) for name in ours}
        os.environ.update(ours)
        try:
            forkserver.ensure_running()
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            worker.connection.close()  # all at once: then each waits for the slowest only
        for worker in self.workers:
            worker.end()

    def prepare(self, encoded: list[bytes | None], pixels: Pixels) -> list[DecodedFacts | Rejected]:
        """As preprocess.prepare. When the process dies, another one tries the images one by one."""
        try:
            return self._work(encoded, pixels)
        except WorkerDiedError as died:
            say(f"note: a decode process died ({died}); its {len(encoded)} images are tried again one by one")
        return [
            self._alone(data, {key: values[index : index + 1] for key, values in pixels.items()})
            for index, data in enumerate(encoded)
        ]

    def _alone(self, data: bytes | None, pixels: Pixels) -> DecodedFacts | Rejected:
        try:
            return self._work([data], pixels)[0]
        except WorkerDiedError as died:
            return Rejected("image_kills_worker", f"the process that decoded it died, twice: {died}")

    def _work(self, encoded: list[bytes | None], pixels: Pixels) -> list[DecodedFacts | Rejected]:
        worker: Worker | None = getattr(self.mine, "worker", None)
        if worker is None:
            worker = self._start()
        try:
            return worker.work(encoded, pixels)
        except WorkerDiedError:
            raise WorkerDiedError(self._retire(worker)) from None

    def _start(self) -> Worker:
        with self.lock:
            worker = self.mine.worker = Worker(self.context, self.pickled, self.layout)
            self.workers.add(worker)
        try:
            worker.receive()
        except WorkerDiedError:
            cause = self._retire(worker)
            raise CurateError(f"a decode process cannot start ({cause}); use --decode-processes 0") from None
        return worker

    def _retire(self, worker: Worker) -> str:
        with self.lock:
            self.mine.worker = None
            self.workers.discard(worker)
            return worker.end()


class Worker:
    """The parent's end of one process."""

    def __init__(self, context: Any, pickled: bytes, layout: dict[str, PixelLayout]) -> None:
        self.shared = SharedPixels(layout, CHUNK_IMAGES)
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, self.shared, pickled), name="decode", daemon=True)
        self.process.start()
        theirs.close()

    def work(self, encoded: list[bytes | None], pixels: Pixels) -> list[DecodedFacts | Rejected]:
        """Send the images, wait, and copy their pixels. Raises WorkerDiedError, and what the process raised."""
        try:
            self.connection.send(encoded)
        except OSError as error:
            raise WorkerDiedError(str(error)) from error
        results: list[DecodedFacts | Rejected] = self.receive()
        for key, values in self.shared.views().items():
            pixels[key].copy_(values[: len(encoded)])
        return results

    def end(self) -> str:
        """Close our end, wait for the process, and say by what it ended."""
        self.connection.close()
        self.shared.close()
        self.process.join(CLOSE_SEC)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        code = self.process.exitcode or 0
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"

    def receive(self) -> Any:
        """The next answer. Raises WorkerDiedError, and what the process raised."""
        try:
            answer = self.connection.recv()
        except (EOFError, OSError) as error:
            raise WorkerDiedError(str(error)) from error
        if isinstance(answer, BaseException):
            raise answer
        return answer


class SharedPixels:
    """Slots for `count` images' pixels, in memory that this process and a worker map."""

    def __init__(self, layout: dict[str, PixelLayout], count: int, fd: int | None = None) -> None:
        size = count * sum(one.bytes for one in layout.values())
        self.layout, self.count = layout, count
        self.fd = _unlinked_file(size) if fd is None else fd
        self.memory = mmap.mmap(self.fd, size)

    def views(self) -> Pixels:
        """Preprocessing -> (count, 3, height, width)."""
        found, offset = {}, 0
        for key, one in self.layout.items():
            size = self.count * one.bytes
            flat = torch.frombuffer(self.memory, dtype=torch.uint8, count=size, offset=offset)
            found[key] = flat.view(one.dtype).view(self.count, *one.shape)
            offset += size
        return found

    def close(self) -> None:
        """The mapping goes with its last view."""
        os.close(self.fd)

    def __reduce__(self) -> Any:
        return _mapped, (self.layout, self.count, reduction.DupFd(self.fd))


def _mapped(layout: dict[str, PixelLayout], count: int, duplicate: Any) -> SharedPixels:
    return SharedPixels(layout, count, duplicate.detach())


def _unlinked_file(size: int) -> int:
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("pixels")
    else:
        with tempfile.TemporaryFile() as stream:
            fd = os.dup(stream.fileno())
    os.truncate(fd, size)
    return fd


def serve(connection: Any, shared: SharedPixels, pickled: bytes) -> None:
    """A worker's life: chunks in, rows out, until the parent closes its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    try:
        decode, preprocessors = pickle.loads(pickled)  # noqa: S301 (the parent pickled it)
        views = shared.views()
        connection.send("ready")
        while True:
            encoded = connection.recv()
            connection.send(_answer(decode, preprocessors, encoded, views))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def _answer(decode: Decoder, preprocessors: Preprocessors, encoded: list[bytes | None], views: Pixels) -> Any:
    try:
        return prepare(decode, preprocessors, encoded, views)
    except Exception as error:  # the parent raises it
        return error


def modules_in(pickled: bytes) -> list[str]:
    """The modules that a pickle's classes and functions come from: imported once, before workers are forked."""
    words = {argument for _, argument, _ in pickletools.genops(pickled) if isinstance(argument, str)}
    return sorted(words & set(sys.modules))
