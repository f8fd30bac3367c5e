"""`curate fetch`: an embedded run at a URL becomes a run directory of this machine, where DuckDB can read it.

Files come first, then the marker that names them, and embed.json last; so whatever kills it, it goes on.
"""

import json
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from curate.embed.planning.parts import part_name
from curate.embed.progress import PROGRESS_FILE, read_progress
from curate.errors import RunError, UsageError
from curate.storage.files import file_sha256, is_local
from curate.storage.run import PARTS, SETTINGS_FILE, Run, RunFiles, first_difference, marker_file
from curate.storage.tables import atomic_path
from curate.storage.threads import in_threads
from curate.storage.url_folder import UrlFolder
from curate.terminal.progress import Advance, progress
from curate.terminal.text import json_text

THREADS = 8


class Marker(NamedTuple):
    """A marker as it stands at the URL: its name, its text, and the files that it names."""

    name: str
    text: bytes
    entries: dict[str, dict[str, Any]]


def fetch(url: str, run: Run) -> dict[str, Any]:
    """Bring the run at `url` to `run`; what stands there already, by sha256, is not fetched again.

    Raises: UsageError when it is no URL; RunError when the run there is unfinished or damaged, or another is here;
    WriteError.
    """
    if is_local(url):
        raise UsageError(f"{url} is a folder of this machine; give it to --run as it is")
    folder = UrlFolder(url)
    remote = RunFiles(folder)
    summary = remote.summary()
    markers = list(_markers(folder, summary["parts"]))
    files = sum(len(marker.entries) for marker in markers)
    with run.locked():
        _claim(run, remote)
        run.mark_unfinished()
        with progress("files", files) as advance:
            fetched = [
                size
                for sizes in in_threads(lambda marker: _fetch_part(folder, run, marker, advance), markers, THREADS)
                for size in sizes
            ]
        last = read_progress(folder)  # for `curate status`
        if last is not None:
            run.folder.write(PROGRESS_FILE, (json_text(last) + "\n").encode("utf-8"))
        run.mark_finished(summary)
    return {
        "url": folder.url,
        "run": str(run.root),
        "parts": summary["parts"],
        "files": files,
        "files_fetched": len(fetched),
        "bytes_fetched": sum(fetched),
    }


def _markers(folder: UrlFolder, parts: int) -> Iterator[Marker]:
    """Every marker of a finished run. Raises: RunError for one that is missing or cannot be read."""
    names = [name.removesuffix(".json") for name in folder.names(PARTS)]
    for needed in map(part_name, range(parts)):
        if needed not in names:
            raise RunError(f"{folder}/{marker_file(needed)} is missing; {_again(folder)}")

    def read(name: str) -> Marker:
        text = folder.read(marker_file(name))
        try:
            entries = {
                _inside(file): {key: entry[key] for key in ("bytes", "sha256")}
                for file, entry in json.loads(text).items()
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RunError(f"{folder}/{marker_file(name)} is damaged ({error}); {_again(folder)}") from error
        return Marker(name, text, entries)

    yield from in_threads(read, names, THREADS)


def _inside(file: str) -> str:
    """Raises: ValueError for a name that leads out of the run."""
    path = PurePosixPath(file)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"it names {file}")
    return file


def _claim(run: Run, remote: RunFiles) -> None:
    """run.toml comes first: from then on the folder is this run's. Raises: RunError when it is another's."""
    if run.folder.size(SETTINGS_FILE) is None:
        if run.pairs.exists() or run.table(PARTS).exists():
            raise RunError(
                f"{run.root} holds tables without a {SETTINGS_FILE}; use another --run, or delete {run.root}"
            )
        run.folder.write(SETTINGS_FILE, remote.folder.read(SETTINGS_FILE))
        return
    difference = first_difference(run.settings()["settings"], remote.settings()["settings"])
    if difference is not None:
        key, here, there = difference
        raise RunError(
            f"{run.root} holds another run than {remote.folder}: {key} is {here!r} here, {there!r} there; "
            f"use another --run, or delete {run.root}"
        )


def _fetch_part(folder: UrlFolder, run: Run, marker: Marker, advance: Advance) -> list[int]:
    """The part's missing files, then its marker; the bytes of each file that was fetched."""
    fetched = []
    for file, entry in marker.entries.items():
        if run.folder.size(file) != entry["bytes"] or run.folder.sha256(file) != entry["sha256"]:
            _fetch_file(folder, run, file, entry)
            fetched.append(entry["bytes"])
        advance(1)
    name = marker_file(marker.name)
    if run.folder.size(name) is None or run.folder.read(name) != marker.text:
        run.folder.write(name, marker.text)
    return fetched


def _fetch_file(folder: UrlFolder, run: Run, file: str, entry: dict[str, Any]) -> None:
    """One file, under its name only once its sha256 is what the marker says. Raises: RunError."""
    with atomic_path(run.root / file) as temporary:
        try:
            folder.get(file, temporary)
        except FileNotFoundError as error:
            raise RunError(f"{folder}/{file} is missing; {_again(folder)}") from error
        if file_sha256(temporary) != entry["sha256"]:
            raise RunError(
                f"{folder}/{file} is damaged: its sha256 is not that of its marker; remove it, {_again(folder)}"
            )


def _again(folder: UrlFolder) -> str:
    return f"run `curate embed --run {folder}` again, then fetch again"
