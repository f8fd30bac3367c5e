"""Work for engines that computes nothing and dies on request: picklable, and light to import in a worker."""

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from curate.embed.engines import Report
from curate.errors import DeviceError, SourceError


@dataclass(frozen=True)
class Item:
    """A task with a name."""

    name: str


def items(count: int) -> list[Item]:
    """Tasks item-0, item-1, ..."""
    return [Item(f"item-{number}") for number in range(count)]


def own_process() -> int:
    """The id of the process that is asked."""
    return os.getpid()


@dataclass(frozen=True)
class Touch:
    """A task's result is a file with the process's id. `fatal` tasks kill their worker, so many times.

    lost: as fatal, by a device that fails. idle_deaths: so many workers die before they take a task. The counts are
    files in `folder`, so that they outlive whoever dies.
    """

    folder: Path
    fatal: tuple[tuple[str, int], ...] = ()
    idle_deaths: int = 0
    failing: str | None = None
    lost: tuple[tuple[str, int], ...] = ()
    seconds: float = 0.0

    def __call__(self, device: str, tasks: Iterator[Item], report: Report) -> None:
        if self._again("idle", self.idle_deaths):
            os._exit(3)
        for task in tasks:
            report(("began", task.name, device))
            time.sleep(self.seconds)
            if self._again(task.name, dict(self.fatal).get(task.name, 0)):
                os.kill(os.getpid(), signal.SIGKILL)
            if self._again(f"lost-{task.name}", dict(self.lost).get(task.name, 0)):
                raise DeviceError(
                    f"{device} failed (CUDA error: unspecified launch failure); the parts that are written"
                )
            if task.name == self.failing:
                raise SourceError(f"{task.name} is bad; mend it")
            (self.folder / task.name).write_text(str(os.getpid()))
            report(("ended", task.name, device))

    def is_done(self, task: Item) -> bool:
        """Whether its file is there."""
        return (self.folder / task.name).exists()

    def processes(self) -> set[int]:
        """Who computed what is there."""
        return {int(path.read_text()) for path in self.folder.glob("item-*")}

    def _again(self, name: str, times: int) -> bool:
        """True the first `times` times that any process asks."""
        for number in range(times):
            try:
                (self.folder / f".{name}.{number}").touch(exist_ok=False)
            except FileExistsError:
                continue
            return True
        return False
