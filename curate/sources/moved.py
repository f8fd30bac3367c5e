"""A run whose source lies elsewhere now: the same files by name and size, while its tables keep the names they have."""

from dataclasses import replace
from itertools import takewhile
from typing import Any

from curate.errors import SourceError
from curate.sources.files import named_files
from curate.sources.parquet import Source
from curate.storage.files import Fingerprint, fingerprint
from curate.storage.run import SETTINGS_FILE, RunFiles


def as_recorded(run: RunFiles, source: Source) -> Source:
    """The source under the names that the run knows its files by, where it lies elsewhere now; else as it is.

    Raises: SourceError for a file of another size.
    """
    if run.folder.size(SETTINGS_FILE) is None or source.preparation is not None:  # rows of ours name pictures by place
        return source
    recorded = run.settings()["settings"].get("files", {})
    places = _matched(recorded, source.files)
    if not places or all(file == place for file, place in places.items()):
        return source
    _check_sizes(recorded, places)
    return replace(source, files=tuple(recorded), places=places, recorded=recorded, known={})


def relocate(run: RunFiles, patterns: list[str]) -> None:
    """Note in run.toml where the run's files lie now. Raises: SourceError where the patterns name other files."""
    recorded, files = run.settings()["settings"]["files"], named_files(patterns)
    places = _matched(recorded, tuple(files))
    if not places:
        known = ", ".join(sorted(_below_common(tuple(recorded))))
        raise SourceError(f"--source names {len(files)} files that are not those of {run.folder}: {known}")
    _check_sizes(recorded, places)
    run.note_moved(places)


def _matched(recorded: dict[str, Any], files: tuple[str, ...]) -> dict[str, str]:
    """Each recorded file and where it lies now, by their paths below what all have in common; {} where they differ."""
    before, now = _below_common(tuple(recorded)), _below_common(files)
    return {before[name]: now[name] for name in before} if before.keys() == now.keys() else {}


def _below_common(files: tuple[str, ...]) -> dict[str, str]:
    folders = [file.rpartition("/")[0].split("/") for file in files]
    common = sum(1 for _ in takewhile(lambda names: len(set(names)) == 1, zip(*folders, strict=False)))
    return {"/".join(file.split("/")[common:]): file for file in files}


def _check_sizes(recorded: dict[str, int | Fingerprint], places: dict[str, str]) -> None:
    for file, place in places.items():
        stated = recorded[file]
        before, now = stated["size"] if isinstance(stated, dict) else stated, fingerprint(place).get("size")
        if before != now:
            raise SourceError(f"{place} has {now:,} bytes, {file} had {before:,} when it was embedded; put it back")
