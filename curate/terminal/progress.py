"""Progress on stderr: a live bar on a terminal, a plain line every ten seconds otherwise."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_EVERY_SEC = 10.0
stderr = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


class Advance(Protocol):
    """Call it with how many units were just finished."""

    def __call__(self, units: int) -> None: ...


def say(message: str) -> None:
    """One line on stderr."""
    stderr.print(message, markup=False)


@contextmanager
def progress(title: str, total: int) -> Iterator[Advance]:
    """Show how many of `total` units are done, how fast, and how long it will take."""
    counter = _Counter(title, total)
    if sys.stderr.isatty():
        columns = (
            TextColumn(title),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=stderr) as bar:
            task = bar.add_task(title, total=total, rate="")

            def advance(units: int) -> None:
                bar.update(task, advance=units, rate=counter.add(units))

            yield advance
    else:
        yield counter.add_and_print
        if counter.done:
            say(counter.line())


class _Counter:
    def __init__(self, title: str, total: int) -> None:
        self.title, self.total, self.done = title, total, 0
        self.start = self.printed = time.monotonic()

    def add(self, units: int) -> str:
        self.done += units
        return f"{self.done / max(time.monotonic() - self.start, 1e-9):,.0f}/s"

    def add_and_print(self, units: int) -> None:
        self.add(units)
        if time.monotonic() - self.printed >= LINE_EVERY_SEC and self.done < self.total:
            self.printed = time.monotonic()
            say(self.line())

    def line(self) -> str:
        elapsed = max(time.monotonic() - self.start, 1e-9)
        left = (self.total - self.done) * elapsed / max(self.done, 1)
        return f"{self.title}: {self.done:,}/{self.total:,}, {self.done / elapsed:,.0f}/s, {left:,.0f} s left"
