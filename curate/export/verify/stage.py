"""`curate verify`: every hash, count, image and prompt of a folder of shards, or every part of a run directory."""

import os
from pathlib import Path
from typing import Any

from curate.errors import UsageError
from curate.export.verify.run import part_markers, verify_run
from curate.export.verify.shards import Findings, ShardReader, is_shard_folder, planned_pairs, verify_shards
from curate.storage.files import is_local
from curate.storage.run import SETTINGS_FILE, Run
from curate.storage.url_folder import UrlFolder
from curate.terminal.progress import progress

THREADS = os.cpu_count() or 1  # decoding and hashing release the GIL


def verify(path: str, run: Run | None) -> dict[str, Any]:
    """What was checked and every fault. path: a run directory, whose shards are checked too, or a folder of shards.

    run: whose ranking the shards are compared with; None: the run that the folder lies in, if it lies in one.
    Raises: UsageError when there is neither a run nor an export.
    """
    folder = ShardReader(path)
    here = Run(Path(folder.root)) if is_local(path) else None
    if here is not None and _is_run(here):
        with progress("parts", len(part_markers(here))) as advance:
            findings = verify_run(here, THREADS, advance)
        inner = ShardReader(str(here.root / "shards"))
        if is_shard_folder(inner):
            findings = findings.joined(_verified_shards(inner, here), "shards/")
    elif is_shard_folder(folder):
        around = Run(Path(folder.root).parent) if is_local(path) else None
        found = around if around is not None and _is_run(around) else None
        findings = _verified_shards(folder, run or found)
    elif not is_local(path) and UrlFolder(path).size(SETTINGS_FILE) is not None:
        raise UsageError(
            f"{path} is a run at a URL; `curate fetch` checks every file of it as it brings it to a folder"
        )
    else:
        raise UsageError(f"{path} is neither a run directory nor a folder of shards; name one of them")
    return {
        "path": path,
        "sound": not findings.faults,
        "checked": findings.counts,
        "notes": findings.notes,
        "faults": findings.faults,
    }


def _verified_shards(folder: ShardReader, run: Run | None) -> Findings:
    with progress("samples", planned_pairs(folder)) as advance:
        return verify_shards(folder, run, THREADS, advance)


def _is_run(run: Run) -> bool:
    """A folder that `curate embed` wrote to, also one that is damaged."""
    return (run.root / SETTINGS_FILE).exists() or run.table("parts").is_dir()
