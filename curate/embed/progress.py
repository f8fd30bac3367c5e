"""A run's progress while it lasts: a bar or lines on stderr, and RUN/progress.json for `curate status`."""

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn

from curate.embed.device.reports import DeviceReport, RunProgress
from curate.embed.stdout import progress_line
from curate.errors import StoppedError, WriteError
from curate.storage.folder import Folder
from curate.storage.run import PARTS
from curate.terminal.progress import say, stderr
from curate.terminal.text import json_text

PROGRESS_FILE = "progress.json"
TICK_SEC = 1.0
REMOTE_EVERY_SEC = 10.0
"""At a URL each write is a request that costs money, and this file need be no newer."""
LINE_EVERY_SEC = 30.0


@contextmanager
def shown_progress(
    folder: Folder, run_progress: RunProgress, settings: dict[str, Any]
) -> Iterator[Callable[[DeviceReport], None]]:
    """Give `run_progress.add`, and until the block ends show what it holds and write it to RUN/progress.json.

    The file says running, and at the end finished, or stopped and why. It is written whole, once a second or at a URL
    every ten, by a thread of its own, so that a slow disk or a long forward pass holds up neither.
    """
    with ExitStack() as stack:
        show = stack.enter_context(_bar(run_progress)) if sys.stderr.isatty() else _lines(run_progress)
        with kept_progress(folder, run_progress, settings, show):
            yield run_progress.add
        write_progress(folder, "finished", settings, run_progress)


@contextmanager
def kept_progress(
    folder: Folder,
    run_progress: RunProgress,
    settings: dict[str, Any],
    show: Callable[[bool], None] = lambda last: None,
) -> Iterator[None]:
    """Until the block ends progress.json says that the run is running, also while models load and nothing is done.

    Where the block fails, it then says stopped and why. show: called at every tick, and with True at the end.
    """
    error: BaseException | None = None
    ended = threading.Event()

    def tick() -> None:
        written = time.monotonic()
        while not ended.wait(TICK_SEC):
            show(False)
            if not folder.remote or time.monotonic() - written >= REMOTE_EVERY_SEC:
                write_progress(folder, "running", settings, run_progress)
                written = time.monotonic()

    ticker = threading.Thread(target=tick, name="progress", daemon=True)
    write_progress(folder, "running", settings, run_progress)
    ticker.start()
    try:
        yield
    except KeyboardInterrupt as stop:
        error = _stopped(folder, run_progress)
        raise error from stop
    except BaseException as raised:
        error = raised
        raise
    finally:
        ended.set()
        ticker.join()
        show(True)
        if error:
            reason = str(error) or type(error).__name__
            write_progress(folder, "stopped", settings, run_progress, error=reason)


def _stopped(folder: Folder, run_progress: RunProgress) -> StoppedError:
    return StoppedError(
        f"stopped by Ctrl-C; {parts_there(folder):,} of {run_progress.parts:,} parts stand in {folder}, and the same "
        "command goes on from there"
    )


def parts_there(folder: Folder) -> int:
    """How many parts of images have a marker, whichever process wrote them."""
    return sum(name.startswith("part-") and name.endswith(".json") for name in folder.names(PARTS))


def write_progress(
    folder: Folder, state: str, settings: dict[str, Any], run_progress: RunProgress, **more: Any
) -> None:
    """RUN/progress.json. A disk that takes no more is said, and met again by the parts themselves."""
    written = {"state": state, **more, **run_progress.numbers(), "settings": settings}
    written |= {"pid": os.getpid(), "written_at": time.time()}
    try:
        folder.write(PROGRESS_FILE, (json_text(written) + "\n").encode("utf-8"))
    except WriteError as error:
        say(f"note: {error}")


def read_progress(folder: Folder) -> dict[str, Any] | None:
    """What was written last; None where there is nothing, or nothing readable."""
    try:
        return dict(json.loads(folder.read(PROGRESS_FILE)))
    except (OSError, ValueError, TypeError):
        return None


def _lines(run_progress: RunProgress) -> Callable[[bool], None]:
    """A line every half minute, and one at the end."""
    printed = time.monotonic()

    def show(last: bool) -> None:
        nonlocal printed
        if last or time.monotonic() - printed >= LINE_EVERY_SEC:
            printed = time.monotonic()
            say(progress_line(run_progress.numbers()))

    return show


@contextmanager
def _bar(run_progress: RunProgress) -> Iterator[Callable[[bool], None]]:
    with Progress(BarColumn(), TextColumn("{task.fields[line]}"), console=stderr) as bar:
        task = bar.add_task("images", total=run_progress.images, line="")

        def show(last: bool) -> None:
            numbers = run_progress.numbers()
            bar.update(task, completed=numbers["images_done"], line=progress_line(numbers))

        yield show
