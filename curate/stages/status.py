"""`curate status`: what another process is doing in a run directory, or has done."""

import fcntl
from typing import Any

from curate.errors import RunError
from curate.live import read_progress
from curate.run import Run


def status(run: Run) -> dict[str, Any]:
    """State of the run's embedding: running, finished or stopped; and its last numbers and settings.

    It runs while a process holds the run's lock, however that process ends; the parts are counted where they lie.
    Raises: RunError when there is no run.
    """
    progress = read_progress(run.root)
    if progress is None:
        settings = run.settings()["settings"]
        progress = {"settings": {name: settings[name] for name in ("device", "precision") if name in settings}}
    last = progress.pop("state", None)
    finished = (run.root / "embed.json").exists() and last in (None, "finished")
    state = "finished" if finished else "running" if is_locked(run) else "stopped"
    if state == "finished":
        progress |= _summary(run)
    if state == "running":
        progress.pop("error", None)
    if state != "finished" and "parts_done" in progress:
        there = max(_parts_there(run), progress["parts_done"])
        progress["parts_done"] = min(there, progress["parts"])  # those of a range may be fewer than there are
    return {"run": str(run.root), "state": state} | progress


def is_locked(run: Run) -> bool:
    """Whether a process holds the run's lock, alone or with others.

    To ask is to take it for a moment: there is no way to look at a lock.
    """
    try:
        with (run.root / ".lock").open("r") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _parts_there(run: Run) -> int:
    return sum(1 for _ in (run.root / "parts").glob("part-*.json"))


def _summary(run: Run) -> dict[str, Any]:
    """Of a finished run the counts are those of the whole, also where it was resumed."""
    try:
        summary = run.summary()
    except RunError:
        return {}
    if "dropped_images" not in summary:
        return {}
    done = {f"{what}{done}": summary[what] for what in ("images", "parts") for done in ("", "_done")}
    return done | {"dropped": summary["dropped_images"]}
