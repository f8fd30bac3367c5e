"""The images of a selection in a few local files: read row group by row group, walked in the pairs' order.

A row group of the source is read once, though ranks lie all over it. Images of a thousand pairs share a file, for on
ext4 3,000 small files took 1.7 s where 500 MB in one took 0.2. An index says where each lies and what it is, so a
killed export goes on: what is whole by its sha256 is not read again.
"""

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from curate.errors import RunError, SourceError, UploadError
from curate.export.encoding import Encoding, encoded_anew
from curate.export.samples import SIDES, ImageFacts, Row, facts_of, location_of
from curate.sources.parquet import Encoded, Location, Source
from curate.storage.tables import atomic_path, writing
from curate.storage.threads import in_threads
from curate.terminal.progress import progress

PAIRS_PER_FILE = 1000
ROW_GROUPS_TOGETHER = 4  # that a thread reads of a file it has opened
PLACES_TOGETHER = 16_384  # become an array, of a seventh of their size as tuples

# One image of one pair that is to be read: where it lies in the source, whose it is, what it is. 67 bytes.
PLACE = np.dtype(
    [
        *(("file", "i4"), ("row_group", "i4"), ("row", "i8"), ("side", "i1"), ("pair", "i8"), ("of", "i1")),
        *(("format", "i1"), ("width", "i4"), ("height", "i4"), ("sha256", "V32")),
    ]
)
# One that was read: where it lies in the store, what it is now, and the first bytes of its sha256 before. 85 bytes.
RECORD = np.dtype(
    [
        *(("pair", "i8"), ("of", "i1"), ("offset", "i8"), ("size", "i8")),
        *(("format", "S12"), ("width", "i4"), ("height", "i4"), ("was", "V8"), ("sha256", "V32")),
    ]
)
Record = tuple[Any, ...]


class Wanted:
    """The images that are to be read, collected pair by pair."""

    def __init__(self) -> None:
        self.files: dict[str, int] = {}
        self.formats: dict[str, int] = {}
        self._places: list[tuple[Any, ...]] = []
        self._arrays = [np.empty(0, PLACE)]

    def add(self, row: Row) -> None:
        """Both images of a pair."""
        for of, side in enumerate(SIDES):
            facts, (file, *rest) = facts_of(row, side), location_of(row, side)
            known = self.formats.setdefault(facts.format, len(self.formats))
            place = (self.files.setdefault(file, len(self.files)), *rest, row["place"], of, known)
            self._places.append((*place, facts.width, facts.height, bytes.fromhex(facts.sha256)))
        if len(self._places) >= PLACES_TOGETHER:
            self._pack()

    def adding(self, rows: Iterable[Row]) -> Iterator[Row]:
        """The rows, each added as it passes."""
        for row in rows:
            self.add(row)
            yield row

    def places(self) -> NDArray[np.void]:
        """All of them, by file's name, row group, row, side."""
        self._pack()
        found = np.concatenate(self._arrays)
        by_name = np.argsort(np.argsort(np.array(list(self.files), dtype=object))) if self.files else np.empty(0, int)
        position = by_name[found["file"]] if len(found) else found["file"]
        return found[np.lexsort((found["side"], found["row"], found["row_group"], position))]

    def _pack(self) -> None:
        self._arrays.append(np.array(self._places, PLACE))
        self._places.clear()


class Stored(NamedTuple):
    """An image in the store."""

    file: Path
    offset: int
    facts: ImageFacts

    def read(self) -> bytes:
        """Its bytes."""
        with self.file.open("rb", buffering=0) as stream:
            return os.pread(stream.fileno(), self.facts.size_bytes, self.offset)


class Store:
    """The folder of the images; `encoding` says how they change on their way in."""

    def __init__(self, staging: Path, encoding: Encoding) -> None:
        tag = hashlib.sha256(json.dumps(encoding.stated()).encode()).hexdigest()[:8]
        self.folder, self.encoding = staging / f".images-{tag}", encoding
        self._index, self._records = self.folder / "index", np.empty(0, RECORD)
        self._ends, self._left = Counter[int](), Counter[int]()
        self._lock = Lock()

    def fetch(self, wanted: Wanted, source: Source, workers: int) -> None:
        """Read each row group once, by several threads, and keep its images; not those that are here already.

        Raises: SourceError; RunError when an image is not the one that was scored; WriteError.
        """
        files, formats, places = list(wanted.files), list(wanted.formats), wanted.places()
        for other in set(self.folder.parent.glob(".images-*")) - {self.folder}:  # of an export with another encoding
            shutil.rmtree(other, ignore_errors=True)
        kept = self._sound(places, workers)
        todo = places[[at not in kept for at in range(len(places))]] if kept else places
        with atomic_path(self._index) as path:
            path.write_bytes(np.array(list(kept.values()), RECORD).tobytes())

        def read(unit: NDArray[np.void]) -> int:
            here, records = dict(_locations(unit, files)), list[Record]()
            for location, data in source.read_images(here):
                records += self._keep(location, data, here[location], formats)
            with self._lock, writing(self._index), self._index.open("ab") as index:
                index.write(np.array(records, RECORD).tobytes())
            return len(unit)

        with progress("images", len(places)) as advance:
            advance(len(kept))
            for done in in_threads(read, _units(todo), workers):
                advance(done)
        self._records = np.sort(np.fromfile(self._index, RECORD), order=["pair", "of"])
        self._left.update((self._records["pair"] // PAIRS_PER_FILE).tolist())

    def image(self, pair: int, side: str) -> Stored:
        """One side of the pair at this place of the order."""
        first = int(np.searchsorted(self._records["pair"], pair))
        _, _, offset, size_bytes, kind, width, height, _, sha256 = self._records[first + SIDES.index(side)].item()
        facts = ImageFacts(sha256.hex(), size_bytes, kind.decode(), width, height)
        return Stored(self._file(pair), offset, facts)

    def release(self, pairs: Iterable[int]) -> None:
        """These are not asked for any more: a file that holds nothing else is removed."""
        with self._lock:
            for pair in pairs:
                self._left[pair // PAIRS_PER_FILE] -= len(SIDES)
                if not self._left[pair // PAIRS_PER_FILE]:
                    self._file(pair).unlink()

    @contextmanager
    def tidied(self) -> Iterator[None]:
        """Remove the store at the end; not after a failure that a later attempt can go on from."""
        try:
            yield
        except (SourceError, UploadError, KeyboardInterrupt):
            raise
        except BaseException:
            self.remove()
            raise
        self.remove()

    def remove(self) -> None:
        """All of it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, pair: int) -> Path:
        return self.folder / f"{pair // PAIRS_PER_FILE:06d}"

    def _keep(
        self, location: Location, data: Encoded | None, here: NDArray[np.void], formats: list[str]
    ) -> Iterator[Record]:
        """Write one image for all pairs that it is in; what the index says of each."""
        *_, known, width, height, was = here[0].item()
        sha256, kind = hashlib.sha256(data or b"").digest(), formats[known]
        if data is None or sha256 != was:
            raise RunError(f"{location.words()} is not the one that was scored; embed again")
        if self.encoding.changes:
            data, kind, width, height = encoded_anew(bytes(data), self.encoding, location.words())
            sha256 = hashlib.sha256(data).digest()
        for pair, of in here[["pair", "of"]].tolist():
            yield pair, of, self._write(pair, data), len(data), kind.encode(), width, height, was[:8], sha256

    def _write(self, pair: int, data: Encoded) -> int:
        """Add to a pair's file; returns where."""
        path, view = self._file(pair), memoryview(data)
        with self._lock:
            start = offset = self._ends[pair // PAIRS_PER_FILE]
            self._ends[pair // PAIRS_PER_FILE] += len(view)
        with writing(path), open(path, "wb", buffering=0, opener=_opened) as stream:
            while view:  # one call may write less
                written = os.pwrite(stream.fileno(), view, offset)
                view, offset = view[written:], offset + written
        return start

    def _sound(self, places: NDArray[np.void], workers: int) -> dict[int, Record]:
        """What the index says of images that an earlier attempt left here, whole, by their place among `places`."""
        if not self._index.exists():
            return {}
        sides = zip(places[["pair", "of"]].tolist(), places["sha256"].tolist(), strict=True)
        wanted = {(pair, of, sha256[:8]): at for at, ((pair, of), sha256) in enumerate(sides)}

        def check(record: Record) -> Record | None:
            pair, _, offset, size_bytes, *_, sha256 = record
            try:
                data = Stored(self._file(pair), offset, ImageFacts("", size_bytes, "", 0, 0)).read()
            except OSError:
                return None
            return record if hashlib.sha256(data).digest() == sha256 else None

        records = [one for one in np.fromfile(self._index, RECORD).tolist() if (*one[:2], one[-2]) in wanted]
        found = {wanted[*one[:2], one[-2]]: one for one in in_threads(check, records, workers) if one is not None}
        for path in set(self.folder.glob("[0-9]*")) - {self._file(one[0]) for one in found.values()}:
            path.unlink()
        self._ends.update({int(path.name): path.stat().st_size for path in self.folder.glob("[0-9]*")})
        return found


def _opened(path: str, flags: int) -> int:
    """Not emptied: several threads write to a file, each at a place of its own."""
    return os.open(path, flags & ~os.O_TRUNC, 0o666)


def _starts(keys: NDArray[np.void]) -> NDArray[np.intp]:
    """Where a key begins that is not the one before it."""
    return np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])) if len(keys) else np.empty(0, np.intp)


def _units(places: NDArray[np.void]) -> list[NDArray[np.void]]:
    """Places of a few row groups of one file: what a thread works through."""
    starts: list[int] = []
    row_groups = _starts(places[["file", "row_group"]])
    for _, of_file in groupby(row_groups, key=lambda start: places["file"][start]):
        starts += list(of_file)[::ROW_GROUPS_TOGETHER]
    return np.split(places, starts[1:]) if starts else []


def _locations(unit: NDArray[np.void], files: list[str]) -> Iterator[tuple[Location, NDArray[np.void]]]:
    """Each image of a unit with the pairs that it is in."""
    keys = unit[["file", "row_group", "row", "side"]]
    starts = _starts(keys)
    for start, end in zip(starts, [*starts[1:], len(unit)], strict=True):
        file, *rest = keys[start].item()
        yield Location(files[file], *rest), unit[start:end]
