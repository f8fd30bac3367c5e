"""`curate status`: what another process is doing in a run directory, or has done."""

import time
from typing import Any

from filelock import lock_descriptor

from curate.embed.progress import parts_there, read_progress
from curate.errors import RunError
from curate.storage.folder import LocalFolder
from curate.storage.run import SUMMARY_FILE, RunFiles

SILENT_SEC = 60.0
"""At a URL, where there is no lock to look at, a run that has written no progress for so long has stopped."""


def status(run: RunFiles) -> dict[str, Any]:
    """State of the run's embedding: running, finished or stopped; and its last numbers and settings.

    It runs while a process holds the run's lock, however that process ends, or at a URL while one writes progress; the
    parts are counted where they lie.
    Raises: RunError when there is no run.
    """
    progress = read_progress(run.folder)
    if progress is None:
        settings = run.settings()["settings"]
        progress = {"settings": {name: settings[name] for name in ("device", "precision") if name in settings}}
    last = progress.pop("state", None)
    finished = run.folder.size(SUMMARY_FILE) is not None and last in (None, "finished")
    state = "finished" if finished else "running" if _is_running(run, last, progress) else "stopped"
    if state == "finished":
        progress |= _summary(run)
    if state == "running":
        progress.pop("error", None)
    elif "seconds_left" in progress:
        progress["seconds_left"] = None  # nothing is at work
    if state != "finished" and "parts_done" in progress:
        there = max(parts_there(run.folder), progress["parts_done"])
        progress["parts_done"] = min(there, progress["parts"])  # those of a range may be fewer than there are
    return {"run": str(run.folder), "state": state} | progress


def _is_running(run: RunFiles, last: str | None, progress: dict[str, Any]) -> bool:
    if not run.folder.remote:
        return is_locked(run)
    # A process that says "finished" may have done its range only, beside others that go on.
    return last in ("running", "finished") and time.time() - progress.get("written_at", 0.0) < SILENT_SEC


def is_locked(run: RunFiles) -> bool:
    """Whether a process holds the run's lock, alone or with others.

    To ask is to take it for a moment: there is no way to look at a lock.
    """
    if not isinstance(run.folder, LocalFolder):
        return False
    try:
        with (run.folder.path / ".lock").open("r") as stream:
            return not lock_descriptor(stream.fileno(), blocking=False)
    except OSError:
        return False


def _summary(run: RunFiles) -> dict[str, Any]:
    """Of a finished run the counts are those of the whole, also where it was resumed."""
    try:
        summary = run.summary()
    except RunError:
        return {}
    if "dropped_images" not in summary:
        return {}
    done = {f"{what}{done}": summary[what] for what in ("images", "parts") for done in ("", "_done")}
    return done | {"dropped": summary["dropped_images"]}
