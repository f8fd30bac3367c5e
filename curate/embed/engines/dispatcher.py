"""The dispatcher that hands out tasks: which wait, which are in whose hands, and what is done about the dead."""

import traceback
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from typing import Any, Generic

from curate.embed.engines import T, Work
from curate.errors import DeviceError, RunError
from curate.terminal.progress import say

DEATHS = 3
"""A task that was in hand at so many deaths is taken to be their cause; a worker that dies so often before it
takes a task is not started again."""
ADVICE = (
    "if memory ran out, take a smaller --batch or fewer --workers, or see the kernel's log; "
    "run again to go on with the parts that are left"
)


class Dispatcher(Generic[T]):
    """Workers are known by a number that their replacements inherit."""

    def __init__(self, tasks: Sequence[T], is_done: Callable[[T], bool]) -> None:
        self.tasks, self.is_done = tasks, is_done
        self.waiting = deque(range(len(tasks)))
        self.in_hand: dict[int, list[int]] = defaultdict(list)
        self.deaths_of_task: Counter[int] = Counter()
        self.idle_deaths: Counter[int] = Counter()
        self.finishes = 0

    def next(self, worker: int) -> T | None:
        """The next task, now in this worker's hands; None when none waits."""
        if not self.waiting:
            return None
        index = self.waiting.popleft()
        self.in_hand[worker].append(index)
        return self.tasks[index]

    def finished(self, worker: int) -> None:
        """The worker ended well: what it had in hand is done."""
        self.in_hand.pop(worker, None)
        self.finishes += 1

    def lost(self, worker: int, who: str, how: str) -> bool:
        """The worker died: what it had not finished waits again, before the rest. True when it should be replaced.

        who, how: for the line that is said. Raises: RunError when a task was in hand at its DEATHS-th death.
        """
        taken = self.in_hand.pop(worker, [])
        unfinished = [index for index in taken if not self.is_done(self.tasks[index])]
        names = [self.tasks[index].name for index in unfinished]
        say(f"{who} died ({how})" + (f"; {', '.join(names)} will be computed again" if names else ""))
        self.waiting.extendleft(reversed(unfinished))
        self.deaths_of_task.update(unfinished)
        self.idle_deaths[worker] = 0 if taken else self.idle_deaths[worker] + 1
        for index, name in zip(unfinished, names, strict=True):
            if self.deaths_of_task[index] >= DEATHS:
                raise RunError(f"{name} was in hand when {DEATHS} workers died ({how}); {ADVICE}")
        if self.idle_deaths[worker] >= DEATHS:
            say(f"{who} died {DEATHS} times before it took a part: going on without it")
        return self.idle_deaths[worker] < DEATHS

    def check_done(self) -> None:
        """With every worker gone: raises RunError when tasks are left."""
        if self.left:
            raise RunError(f"no worker is left, but {self.left:,} parts are; {ADVICE}")

    @property
    def left(self) -> int:
        """How many tasks wait or are in hand."""
        return len(self.waiting) + sum(len(taken) for taken in self.in_hand.values())


def be_worker(work: Work[T], device: str, send: Callable[[str, Any], None], receive: Callable[[], T | None]) -> None:
    """The worker's side: it sends "next" for each task, "report", and at its end "finished", "failed" or "lost".

    receive: waits for the answer to "next". `send` may be called from two threads at once.
    """

    def next_task() -> T | None:
        send("next", None)
        return receive()

    try:
        work(device, iter(next_task, None), lambda content: send("report", content))
    except DeviceError as error:
        send("lost", str(error).partition(";")[0])  # as if the process had died: others may go on
    except Exception as error:
        # As a note, for the traceback itself does not travel.
        error.add_note("in a worker:\n" + "".join(traceback.format_exception(error)))
        send("failed", error)
    else:
        send("finished", None)
