"""Where tasks run: in this process, in worker processes of this machine, or on a Ray cluster.

An engine hands out tasks to workers as they ask for them, forwards what they report, and hands out again what
a dead worker had in hand. What a task is, and how it is computed, is the work's business.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

Report = Callable[[Any], None]


class Task(Protocol):
    """A unit of work with a name for messages; it travels to its worker by pickle."""

    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=Task)
T_contra = TypeVar("T_contra", bound=Task, contravariant=True)


class Work(Protocol[T_contra]):
    """What a worker does. It travels by pickle, and holds no device before it is called."""

    def __call__(self, device: str, tasks: Iterator[T_contra], report: Report) -> None:
        """Compute each task that `tasks` yields; `tasks` may be drawn from another thread, and ahead.

        What is reported must travel by pickle, too.
        """

    def is_done(self, task: T_contra) -> bool:
        """Whether the result of a task is there, whoever computed it."""


class Engine(Protocol):
    """Where the workers are."""

    def run(self, work: Work[T], tasks: Sequence[T], report: Report) -> None:
        """Return when every task is computed; at least one worker is started, also for no task.

        `report` is called in this process, from one thread at a time. Raises: what a worker raised; RunError
        when workers keep dying.
        """
