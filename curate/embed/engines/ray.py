"""A Ray cluster that the user already has: one actor per GPU, or per CPU where it has none.

The dispatcher stays in this process. An actor puts what it wants and what it reports into a queue that this process
empties, so tasks and reports take the same way as between processes of one machine.
"""

import logging
import os
import queue
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from curate.embed.engines import Report, T, Work
from curate.embed.engines.dispatcher import Dispatcher, be_worker
from curate.errors import UsageError
from curate.terminal.progress import say

R = TypeVar("R")
WAIT_SEC = 30.0
LOCAL_OBJECT_STORE_BYTES = 100_000_000
NO_ROOM = "no worker has begun: the Ray cluster has no room for one yet"
MISSING = "--engine ray needs the package ray: pip install 'pairsieve[ray]', here and on every machine of the cluster"


@dataclass(frozen=True)
class RayEngine:
    """A worker for each GPU of a connected cluster, or for each CPU: `workers` of them, `cpus` for all together."""

    device: str
    workers: int
    cpus: int

    def ask(self, function: Callable[..., R], *values: object) -> R:
        """What a function answers on a machine that can be a worker."""
        import ray

        answer = ray.remote(_answer).options(**self._place()).remote(function, *values)  # ray takes no partial as it is
        while not ray.wait([answer], timeout=WAIT_SEC)[0]:
            say(NO_ROOM)
        return ray.get(answer)

    def run(self, work: Work[T], tasks: Sequence[T], report: Report) -> None:
        """As `Engine.run`. Actors for which the cluster has no room yet join when it has."""
        import ray

        dispatcher = Dispatcher(tasks, work.is_done)
        sent = ray.put(work)
        staff = [self._start(number, sent) for number in range(min(self.workers, max(1, len(tasks))))]
        try:
            while _are_needed(staff, dispatcher):
                ready, _ = ray.wait([actor.awaited for actor in staff], timeout=WAIT_SEC)
                if not ready and not any(actor.began for actor in staff):
                    say(NO_ROOM)
                for actor in [actor for actor in staff if actor.awaited in ready]:
                    if _serve(actor, dispatcher, staff, report):
                        staff.append(self._start(actor.number, sent))
        finally:
            for actor in staff:
                ray.kill(actor.handle)
        dispatcher.check_done()

    def _start(self, number: int, sent: Any) -> "_Actor":
        import ray

        handle: Any = ray.remote(_Worker).options(max_concurrency=3, max_restarts=0, **self._place()).remote()
        handle.work.remote(sent, self.device)
        return _Actor(number, handle, handle.next_messages.remote())

    def _place(self) -> dict[str, int]:
        return {"num_gpus": 1} if self.device == "cuda" else {"num_cpus": 1}


def _answer(function: Callable[..., R], *values: object) -> R:
    return function(*values)


@contextmanager
def connected(address: str | None, workers: int | None, device: str) -> Iterator[RayEngine]:
    """Connect to the cluster at `address`, at RAY_ADDRESS, or to one of this machine's own that ends with the block.

    device: auto, cpu or cuda. Raises: UsageError when ray is missing or nobody answers.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise UsageError(MISSING) from error
    mine = not ray.is_initialized()
    if mine:
        _connect(address or os.environ.get("RAY_ADDRESS"))
    try:
        resources = ray.cluster_resources()
        slots = {"cuda": int(resources.get("GPU", 0)), "cpu": int(resources.get("CPU", 0))}
        on = ("cuda" if slots["cuda"] else "cpu") if device == "auto" else device
        if not slots.get(on):
            raise UsageError(f"--device {device}: the Ray cluster has {slots['cuda']} GPUs and {slots['cpu']} CPUs")
        yield RayEngine(on, min(workers or slots[on], slots[on]), max(1, slots["cpu"]))
    finally:
        if mine:
            ray.shutdown()


def _connect(address: str | None) -> None:
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address:
            ray.init(address=address, **quiet)
        else:
            ray.init(address="local", include_dashboard=False, object_store_memory=LOCAL_OBJECT_STORE_BYTES, **quiet)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise UsageError(f"--address {address}: {str(error).splitlines()[0]}") from error


@dataclass
class _Actor:
    """What this process knows of an actor; `awaited` are its next messages."""

    number: int
    handle: Any
    awaited: Any
    began: bool = False


class _Worker:
    """Runs in the actor, in three threads: the work, one that takes tasks in, one that hands messages out."""

    def __init__(self) -> None:
        self.given: queue.Queue[Any] = queue.Queue()
        self.messages: queue.Queue[tuple[str, Any]] = queue.Queue()

    def work(self, work: Work[Any], device: str) -> None:
        self.messages.put(("began", f"process {os.getpid()} at {socket.gethostname()}"))
        be_worker(work, device, lambda *message: self.messages.put(message), self.given.get)

    def give(self, task: Any) -> None:
        self.given.put(task)

    def next_messages(self) -> list[tuple[str, Any]]:
        """At least one message, when there is one."""
        found = [self.messages.get()]
        while not self.messages.empty():
            found.append(self.messages.get())
        return found


def _are_needed(staff: list[_Actor], dispatcher: Dispatcher[Any]) -> bool:
    """Until all who began have ended, and somebody has; those that never found room are not waited for."""
    return any(actor.began for actor in staff) or bool(staff and (dispatcher.left or not dispatcher.finishes))


def _serve(actor: _Actor, dispatcher: Dispatcher[Any], staff: list[_Actor], report: Report) -> bool:
    """What an actor has to say, or its death; True when it should be replaced."""
    import ray

    try:
        messages = ray.get(actor.awaited)
    except ray.exceptions.RayActorError:
        staff.remove(actor)
        return dispatcher.lost(actor.number, f"worker {actor.number}", "its process or its machine is gone")
    actor.awaited = actor.handle.next_messages.remote()
    for kind, content in messages:
        if kind == "began":
            actor.began = True
            say(f"worker {actor.number}: {content}")
        elif kind == "next":
            actor.handle.give.remote(dispatcher.next(actor.number))
        elif kind == "report":
            report(content)
        elif kind == "failed":
            raise content
        elif kind == "lost":
            staff.remove(actor)
            ray.kill(actor.handle)
            return dispatcher.lost(actor.number, f"worker {actor.number}", content)
        else:
            dispatcher.finished(actor.number)
            staff.remove(actor)
            ray.kill(actor.handle)
    return False
