"""What a command of `train` shows on stderr: our progress, and nothing of the libraries' own."""

import os
import sys
import threading
import time
from functools import cache

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINES_PER_RUN = 20  # at least as many over a run when stderr is not a terminal,
LINE_EVERY_SEC = 60.0  # and one a minute


class Reporter:
    """Progress on stderr: a rich bar on a terminal, lines otherwise; `main` processes only."""

    def __init__(self, *, main: bool) -> None:
        self._console = Console(stderr=True, quiet=not main, highlight=False, soft_wrap=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, TextColumn("{task.fields[note]}"), console=self._console)
        self._tasks: dict[str, int] = {}
        self._first: dict[str, tuple[float, int]] = {}  # when each began to advance, and from where
        self._said_at = time.monotonic()

    def __enter__(self) -> "Reporter":
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._bar.stop()

    def say(self, text: str) -> None:
        self._console.print(text, markup=False)

    def advance(self, what: str, done: int, total: int, note: str = "") -> None:
        """Show that `done` of `total` of `what` are done."""
        if self._console.is_terminal:
            if what not in self._tasks:
                self._tasks[what] = self._bar.add_task(what, total=total, note="")
            self._bar.update(self._tasks[what], completed=done, note=note)  # type: ignore[arg-type]
            return
        now = time.monotonic()
        began, first = self._first.setdefault(what, (now, done))
        if done in (first, total) or done % max(1, total // LINES_PER_RUN) == 0 or now - self._said_at > LINE_EVERY_SEC:
            self._said_at = now
            left = "" if done in (first, total) else _time_left((now - began) / (done - first) * (total - done))
            self.say(f"{what} {done}/{total}  {left}{note}".rstrip())


def _time_left(seconds: float) -> str:
    """In hours and minutes, as a line of progress has it before its note."""
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min left  " if hours else f"{minutes} min left  "


@cache
def silence_libraries() -> None:
    """Call once, when a command starts; never at import."""
    from diffusers.utils import logging as diffusers_logging
    from huggingface_hub.utils import enable_progress_bars
    from tensorboard.summary.writer import event_file_writer
    from transformers.utils import logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):
        library.disable_progress_bar()
        library.set_verbosity_error()
    if sys.stderr.isatty():  # transformers switches the hub's bars off with its own; a download of gigabytes has one
        enable_progress_bars()
    default_hook = threading.excepthook

    def hook(fault: threading.ExceptHookArgs) -> None:
        """TensorBoard's thread tells the main one, at its next write, that the disk is full."""
        if not isinstance(fault.thread, event_file_writer._AsyncWriterThread):
            default_hook(fault)

    threading.excepthook = hook


def note(text: str) -> None:
    """On stderr, what was chosen for the user; of several processes one says it."""
    if os.environ.get("RANK", "0") == "0":
        print(text, file=sys.stderr)  # noqa: T201
