"""This machine: this process alone, or one per device, each asking for its next task when it has room for it."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from curate.embed.engines import Engine, Report, T, Work
from curate.embed.engines.dispatcher import Dispatcher, be_worker
from curate.embed.options import CORES
from curate.terminal.progress import say


@dataclass(frozen=True)
class Serial:
    """This process is the only worker: all tasks in turn, on one device."""

    device: str

    def run(self, work: Work[T], tasks: Sequence[T], report: Report) -> None:
        """As `Engine.run`; when this process dies, nobody is left to hand anything out again."""
        work(self.device, iter(tasks), report)


@dataclass(frozen=True)
class Processes:
    """A worker for each of `devices`; a device named twice has two."""

    devices: tuple[str, ...]

    def run(self, work: Work[T], tasks: Sequence[T], report: Report) -> None:
        """As `Engine.run`. No worker outlives this call, nor this process."""
        dispatcher = Dispatcher(tasks, work.is_done)
        devices = self.devices[: max(1, len(tasks))]
        staff: list[_Worker] = []
        with _sharing_cores(len(devices)):
            try:
                staff += [_start(number, device, work) for number, device in enumerate(devices)]
                while staff:
                    lines = wait([worker.line for worker in staff])
                    for worker in [worker for worker in staff if worker.line in lines]:
                        _serve(worker, dispatcher, staff, work, report)
            finally:
                for worker in staff:
                    worker.end()
        dispatcher.check_done()


@contextmanager
def _sharing_cores(workers: int) -> Iterator[None]:
    """Workers that start meanwhile take their share of the cores for torch, unless the user has said how many."""
    if "OMP_NUM_THREADS" in os.environ:
        yield
        return
    os.environ["OMP_NUM_THREADS"] = str(max(1, CORES // workers))
    try:
        yield
    finally:
        del os.environ["OMP_NUM_THREADS"]


def local_engine(devices: tuple[str, ...]) -> Engine:
    """One device needs no process beside this one."""
    return Serial(devices[0]) if len(devices) == 1 else Processes(devices)


@dataclass
class _Worker:
    number: int
    device: str
    process: SpawnProcess
    line: Connection

    def end(self) -> None:
        self.process.terminate()
        self.process.join()
        self.line.close()

    def how_it_died(self) -> str:
        self.process.join()
        code = self.process.exitcode or 0
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _start(number: int, device: str, work: Work[Any]) -> _Worker:
    spawn = multiprocessing.get_context("spawn")  # a fork would share the parent's threads' locks and CUDA's state
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_worker_main, args=(theirs, device, work))
    process.start()
    theirs.close()  # so that the worker's death ends the line
    say(f"worker {number} on {device}: process {process.pid}")
    return _Worker(number, device, process, ours)


def _serve(worker: _Worker, dispatcher: Dispatcher[T], staff: list[_Worker], work: Work[T], report: Report) -> None:
    """One message of one worker, or its death."""
    try:
        kind, content = worker.line.recv()
        if kind == "next":
            worker.line.send(dispatcher.next(worker.number))
    except (EOFError, OSError):
        kind, content = "lost", worker.how_it_died()
    if kind == "report":
        report(content)
    elif kind == "failed":
        raise content
    elif kind == "finished":
        dispatcher.finished(worker.number)
        staff.remove(worker)
        worker.process.join()
        worker.line.close()
    elif kind == "lost":
        staff.remove(worker)
        worker.end()
        if dispatcher.lost(worker.number, f"worker {worker.number} on {worker.device}", content):
            staff.append(_start(worker.number, worker.device, work))


def _worker_main(line: Connection, device: str, work: Work[Any]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, too, which ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    lock = threading.Lock()

    def send(kind: str, content: Any) -> None:
        with lock:
            line.send((kind, content))

    be_worker(work, device, send, line.recv)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)  # a run that starts again must not meet the workers of the killed one
