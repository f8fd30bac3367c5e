"""Images written into their places, row group by row group, by several threads; what is done is noted down.

The note survives `kill -9`: a run that goes on reads only the row groups that are not in it. It is written after
the tars' bytes are on the disk, so it holds after a power cut, too.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.errors import RunError, SourceError, UploadError
from curate.export.destination import Destination
from curate.export.tars.layout import TarLayout
from curate.export.tars.plan import PlannedShard, ShardPlan, starts_of
from curate.export.tars.spool import ImageReader, write_all
from curate.storage.tables import writing
from curate.storage.threads import in_threads
from curate.terminal.progress import Advance

NOTE_FILE = ".export.json"
NOTE_EVERY_SEC = 30.0
ROW_GROUPS_TOGETHER = 4  # that a thread reads of a file it has opened
FILES_OPEN = 64  # of one thread
Group = tuple[str, int]


class StagedShards:
    """The tars being made, under temporary names, and the note of which row groups they hold already."""

    def __init__(self, destination: Destination) -> None:
        self.destination = destination
        self.layouts: dict[str, str] = {}
        self._kept: set[str] = set()
        self._note = destination.staging / NOTE_FILE
        self._known: dict[str, str] = self._read_note().get("layouts", {})
        self._done: set[Group] = set()
        self._noted = time.monotonic()

    def begin(self, shard: PlannedShard, layout: TarLayout) -> None:
        """Write everything but the images. What an earlier attempt wrote of the same tar is left in place."""
        path = self.destination.staged(shard.name)
        self.layouts[shard.name] = shard.layout_sha256
        with writing(path):
            if self._known.get(shard.name) != shard.layout_sha256:
                self._note.unlink(missing_ok=True)  # it speaks of other bytes under this name
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists() and path.stat().st_size == shard.size_bytes:
                self._kept.add(shard.name)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                os.ftruncate(descriptor, shard.size_bytes)
                for offset, piece in layout.pieces:
                    write_all(descriptor, piece, offset)
            finally:
                os.close(descriptor)

    def resume(self) -> set[Group]:
        """The row groups that an earlier attempt at these very tars wrote already; usually none."""
        try:
            note = self._read_note()
            known, done = note["layouts"], {(file, group) for file, group in note["done"]}
        except (ValueError, KeyError, TypeError):
            return set()
        same = all(name in self._kept and known.get(name) == layout for name, layout in self.layouts.items())
        self._done = done if same else set()
        return self._done

    def _read_note(self) -> dict[str, Any]:
        try:
            return dict(json.loads(self._note.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return {}

    def note(self, groups: list[Group], *, now: bool = False) -> None:
        """Row groups that were written just now; the note itself is written every half minute."""
        self._done.update(groups)
        if not now and time.monotonic() - self._noted < NOTE_EVERY_SEC:
            return
        for path in filter(Path.exists, map(self.destination.staged, self.layouts)):
            flush(path)
        text = json.dumps({"layouts": self.layouts, "done": sorted(self._done)})
        temporary = self._note.with_suffix(".tmp")
        with writing(self._note):
            temporary.write_text(text, encoding="utf-8")
            flush(temporary)
            temporary.replace(self._note)
        self._noted = time.monotonic()

    @contextmanager
    def tidied(self) -> Iterator[None]:
        """On failure remove what is not finished, unless a later attempt can go on with it."""
        try:
            yield
        except (SourceError, UploadError, KeyboardInterrupt):
            self.note([], now=True)
            raise
        except BaseException:
            self.discard()
            raise

    def discard(self) -> None:
        """Remove what is not finished."""
        for name in self.layouts:
            self.destination.staged(name).unlink(missing_ok=True)
        self.forget()

    def forget(self) -> None:
        """Remove the note: every tar has its final name, or none will."""
        self._note.unlink(missing_ok=True)


def fill_shards(plan: ShardPlan, staged: StagedShards, images: ImageReader, workers: int, advance: Advance) -> None:
    """Read each row group once and write its images into all their places.

    Raises: SourceError; RunError when an image is not the one that was scored; WriteError.
    """
    done = staged.resume()
    todo = [unit for unit in _units(plan) if not done.issuperset(_groups(plan, unit))]
    advance(len(plan.places) - sum(map(len, todo)))

    def work(unit: NDArray[np.void]) -> NDArray[np.void]:
        _fill(plan, unit, staged.destination, images)
        return unit

    for unit in in_threads(work, todo, workers):
        staged.note(_groups(plan, unit))
        advance(len(unit))


def flush(path: Path) -> None:
    """Wait until a file's bytes are on the disk."""
    with writing(path), path.open("rb") as stream:
        os.fsync(stream.fileno())


def _units(plan: ShardPlan) -> list[NDArray[np.void]]:
    """Places of a few row groups of one file: what a thread works through."""
    row_groups = starts_of(plan.places[["file", "row_group"]])
    starts: list[int] = []
    for _, of_file in groupby(row_groups, key=lambda start: plan.places["file"][start]):
        starts += list(of_file)[::ROW_GROUPS_TOGETHER]
    return np.split(plan.places, starts[1:]) if starts else []


def _groups(plan: ShardPlan, unit: NDArray[np.void]) -> list[Group]:
    file = plan.files[unit["file"][0]]
    return [(file, int(group)) for group in np.unique(unit["row_group"])]


def _fill(plan: ShardPlan, unit: NDArray[np.void], destination: Destination, images: ImageReader) -> None:
    wanted = dict(plan.locations(unit))
    with _OpenTars(plan, destination) as tars:
        for location, data in images.read_images(wanted):
            places = wanted[location]
            if data is None or hashlib.sha256(data).digest() != places[0]["sha256"].tobytes():
                raise RunError(f"{location.words()} is not the one that was scored; embed again")
            for place in places:
                tars.write(int(place["shard"]), data, int(place["offset"]))


class _OpenTars(ExitStack):
    """Descriptors of the tars that a thread writes to, not too many at once."""

    def __init__(self, plan: ShardPlan, destination: Destination) -> None:
        super().__init__()
        self._plan, self._destination = plan, destination
        self._open: dict[int, tuple[Path, int]] = {}

    def write(self, shard: int, data: bytes, offset: int) -> None:
        path, descriptor = self._open.get(shard) or self._begin(shard)
        with writing(path):
            write_all(descriptor, data, offset)

    def _begin(self, shard: int) -> tuple[Path, int]:
        if len(self._open) >= FILES_OPEN:
            self.close()
            self._open.clear()
        path = self._destination.staged(self._plan.shards[shard].name)
        with writing(path):
            descriptor = os.open(path, os.O_WRONLY)
        self.callback(os.close, descriptor)
        self._open[shard] = path, descriptor
        return path, descriptor
