"""A manifest's files as canonical pairs, and the bytes of one image by its location.

Column names of the data set come from the manifest; everything below this module speaks our names.
"""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curate.errors import SourceError
from curate.sources.columns import (
    IMAGE_COLUMNS,
    canonical,
    check_columns,
    image_at,
    mean_bytes,
    rows_together,
    whole_text,
)
from curate.sources.files import changed_words, state_of
from curate.sources.layouts.members import is_member, read_members, states_of
from curate.sources.layouts.preparation import (
    ROWS,
    Preparation,
    kind_of,
    ready_rows,
)
from curate.sources.manifest import LABEL_COLUMNS, Manifest
from curate.storage.files import (
    Fingerprint,
    filesystem_of,
    fingerprint,
    is_local,
    read_whole,
    retrying,
)
from curate.storage.folder import Folder
from schemas.manifests import COLUMN_KEYS
from schemas.remote import changed_meanwhile, is_absent, is_transient, why

KEYS_READ_TOGETHER = 100_000
READ_BUFFER_BYTES = 1024 * 1024
"""Of a column that is read in batches: memory holds so much of its encoded pages, whatever the row group's size."""
WHOLE_GROUP_BYTES = 512_000_000
"""Up to here a row group at a URL is fetched whole, in few requests; above, piece by piece."""
URLS_AT_ONCE = 16


class Location(NamedTuple):
    """Where one image's bytes lie: a row of a row group of a file, and the side of the pair."""

    file: str
    row_group: int
    row: int
    side: int

    def words(self) -> str:
        """For messages."""
        return f"{self.file}: row group {self.row_group}, row {self.row}, image {self.side}"


T = TypeVar("T")
Encoded: TypeAlias = Any  # bytes, or a pyarrow.Buffer, which is used like them but has no types of its own


@dataclass(frozen=True)
class Source:
    """The files of one split of a manifest, sorted by name.

    known: what each file was like when it was first looked at; reading it later in another state stops.
    preparation: how files of another layout become rows; `with_rows` makes them, and from then on `files` is ROWS,
    which lies at `rows_file`. dimension: of several questions about a pair the one that counts.
    places: where a file lies now, where that is elsewhere; recorded: then, what the run says of the files.
    """

    manifest: Manifest
    split: str
    files: tuple[str, ...]
    expected_rows: int | None
    known: dict[str, Fingerprint] = field(default_factory=dict, compare=False, repr=False)
    places: dict[str, str] = field(default_factory=dict)
    recorded: dict[str, Fingerprint] | None = None
    preparation: Preparation | None = None
    rows_file: str | None = None
    columns: dict[str, str] = field(default_factory=dict)
    dimension: str | None = None

    def __post_init__(self) -> None:
        if not self.columns:
            object.__setattr__(self, "columns", dict(self.manifest.columns))

    @property
    def reading(self) -> Manifest:
        """The manifest as the files, or the rows that they became, are read by it."""
        return replace(self.manifest, columns=self.columns)

    @property
    def judged(self) -> bool:
        """Whether the set says who is preferred."""
        return self.manifest.always_0 or bool(set(LABEL_COLUMNS) & set(self.columns))

    def settings(self) -> dict[str, Any]:
        """The manifest's, with what options put in their place; and `rows` where these are made first."""
        images = () if self.preparation is None else self.preparation.images
        stated = replace(self.manifest, images=images, dimension=self.dimension).settings()
        if self.preparation is None:
            return stated
        tars = kind_of(self.preparation.files[0]) == ".tar"
        return stated | {"rows": ROWS} | ({"samples": "by key"} if tars else {})  # earlier runs: by tar and key

    def with_rows(self, folder: Folder) -> "Source":
        """A source of another layout as rows in `folder`, made there unless they are there already; others as they are.

        Raises: SourceError, QueryError, WriteError.
        """
        if self.preparation is None or self.rows_file is not None:
            return self
        rows_file = ready_rows(self.preparation, self.settings() | {"files": self.fingerprints()}, folder)
        names = pq.read_schema(rows_file).names if is_local(rows_file) else _parquet(rows_file).schema_arrow.names
        columns = {name: name for name in names if name in COLUMN_KEYS}
        stated = None if self.manifest.candidates else self.expected_rows  # the publisher counts prompts or pictures
        return replace(self, files=(ROWS,), expected_rows=stated, rows_file=rows_file, columns=columns)

    def key_rows(self) -> Iterator[pa.Table]:
        """Tables of some row groups of one file each: everything but images, under our names.

        Adds `source_file`, `source_row_group`, `source_row`, and where the files hold the images' bytes
        `image_<side>_size_bytes`, their mean in the row group by the file's metadata; `bad_text` where a text of some
        row is no UTF-8. Raises: SourceError.
        """
        for file in self.files:
            parquet = self._open(file)
            check_columns(parquet.schema_arrow, self.reading, file)
            for row_groups in self._read_together(parquet):
                yield self._key_table(parquet, file, row_groups)

    def image_bytes(self, locations: list[Location]) -> dict[Location, bytes | None]:
        """The encoded bytes at each location (None where the row has none); each row group is read once."""
        return {
            place: bytes(data) if isinstance(data, pa.Buffer) else data for place, data in self.read_images(locations)
        }

    def read_images(self, locations: Iterable[Location]) -> Iterator[tuple[Location, Encoded | None]]:
        """The same in the order of the places, and without a copy: buffers lie in the few rows that were read together.

        Raises: SourceError, also when a file is no longer what it was when it was first looked at.
        """
        for file, here in groupby(sorted(set(locations)), key=lambda place: place.file):
            parquet = self._open(file)
            for row_group, wanted in groupby(here, key=lambda place: place.row_group):
                yield from self._read_group(parquet, file, row_group, list(wanted))

    def fingerprints(self) -> dict[str, Fingerprint]:
        """Size, and ETag or time of change, of each file, so that a source that changed under a run is noticed."""
        if self.recorded is not None:
            return self.recorded
        inputs = self.files if self.preparation is None else self.preparation.inputs
        for file in inputs:
            if file not in self.known:
                self.known[file] = state_of(file)
        return {file: self.known[file] for file in inputs}

    def sizes(self) -> dict[str, int]:
        """Bytes of each file."""
        return {file: int(state["size"]) for file, state in self.fingerprints().items()}

    def _open(self, file: str) -> pq.ParquetFile:
        if file == ROWS and self.rows_file is not None:
            file = self.rows_file
        try:
            place = self.places.get(file, file)
            now = fingerprint(place)
            parquet = retrying(lambda: _parquet(place), place)
        except pa.ArrowInvalid as error:
            raise SourceError(f"{file} is not a Parquet file ({error}); remove it or correct --source") from error
        except ValueError as error:
            raise SourceError(f"{file} cannot be opened: {error}") from error
        except Exception as error:  # every remote file system raises its own errors
            again = "; run again to go on" if is_transient(error) else ""
            raise SourceError(f"{file} cannot be opened: {why(error)}{again}") from error
        words = changed_words(file, self.known.setdefault(file, now), now)
        if words is not None:
            raise SourceError(f"{words}; embed it again into another --run")
        return parquet

    def _read_together(self, parquet: pq.ParquetFile) -> Iterator[list[int]]:
        """Row groups that are read in one go; one by one where an image's uid comes from its bytes."""
        limit = KEYS_READ_TOGETHER if {"image_0_uid", "image_1_uid"} <= set(self.columns) else 1
        together: list[int] = []
        rows = 0
        for row_group in range(parquet.num_row_groups):
            together.append(row_group)
            rows += parquet.metadata.row_group(row_group).num_rows
            if rows >= limit:
                yield together
                together, rows = [], 0
        if together:
            yield together

    def _key_table(self, parquet: pq.ParquetFile, file: str, row_groups: list[int]) -> pa.Table:
        columns = self.columns
        known = {f"image_{side}_path" for side in (0, 1) if f"image_{side}_uid" in columns}
        wanted = {ours: theirs for ours, theirs in columns.items() if ours not in {*IMAGE_COLUMNS, *known}}
        table = self._read_groups(parquet, file, row_groups, list({*wanted.values(), *self.manifest.keep}))
        arrays = {ours: canonical(table[theirs], ours, file, self.reading) for ours, theirs in wanted.items()}
        for side in (0, 1):
            if f"image_{side}_uid" not in arrays:
                derived = [self._derived_uids(parquet, file, row_group, side) for row_group in row_groups]
                arrays[f"image_{side}_uid"] = pa.chunked_array(derived, pa.string())
        bad_text = _checked_text(arrays)
        arrays |= {name: table[name] for name in self.manifest.keep}
        counts = [parquet.metadata.row_group(row_group).num_rows for row_group in row_groups]
        for ours in (name for name in IMAGE_COLUMNS if name in columns):
            sizes = mean_bytes(parquet.metadata, row_groups, columns[ours])
            arrays[ours.replace("_bytes", "_size_bytes")] = pa.array(np.repeat(sizes, counts))
        arrays["source_file"] = pa.repeat(file, sum(counts))
        arrays["source_row_group"] = pa.array(np.repeat(np.array(row_groups, np.int32), counts))
        arrays["source_row"] = pa.array(np.concatenate([np.arange(count) for count in counts]))
        return pa.table(arrays | ({} if bad_text is None else {"bad_text": pa.array(bad_text)}))

    def _derived_uids(self, parquet: pq.ParquetFile, file: str, row_group: int, side: int) -> pa.Array:
        """Without a uid column an image is known by the sha256 of its bytes, or else by its path."""
        name, uids, paths = self._image_column(side), list[str | None](), list[str]()
        for _, batch in self._batches(parquet, file, row_group, [name]):
            column = batch[name]
            for row in range(batch.num_rows):
                data, path = image_at(column, row)
                uids.append(path if data is None else hashlib.sha256(data).hexdigest())
                paths += [path] if data is None and path else []
        self._check_paths_are_unique(paths, file, name)
        return _text_array(uids)

    def _check_paths_are_unique(self, paths: list[str], file: str, column: str) -> None:
        """A relative path starts from its file's folder, so across folders it does not tell images apart."""
        folders = {name.rpartition("/")[0] for name in self.files}
        if len(folders) > 1 and not all(path.startswith("/") or "://" in path for path in paths):
            raise SourceError(
                f"{file}: column '{column}' holds relative paths and the files lie in {len(folders)} folders, so equal "
                "paths may be different images; map columns.image_0_uid and columns.image_1_uid, or read one folder"
            )

    def _read_group(
        self, parquet: pq.ParquetFile, file: str, row_group: int, wanted: list[Location]
    ) -> Iterator[tuple[Location, Encoded | None]]:
        """wanted: sorted."""
        names, waiting = {side: self._image_column(side) for side in {item.side for item in wanted}}, deque(wanted)
        for first, batch in self._batches(parquet, file, row_group, list(dict.fromkeys(names.values()))):
            here = list[Location]()
            while waiting and waiting[0].row < first + batch.num_rows:
                here.append(waiting.popleft())
            columns = {side: batch[name] for side, name in names.items()}
            found = [image_at(columns[item.side], item.row - first) for item in here]
            self._check_archives([path for _, path in found if path and is_member(path)])
            beside = self.places.get(file, file)
            elsewhere = iter(_fetch_all([path for data, path in found if data is None], beside))
            yield from (
                (item, next(elsewhere) if data is None else data) for item, (data, _) in zip(here, found, strict=True)
            )
            if not waiting:
                return
        raise SourceError(f"{waiting[0].words()} is not there any more; embed {file} again into another --run")

    def _check_archives(self, addresses: list[str]) -> None:
        """Raises: SourceError for a file with pictures that is another than when it was first looked at."""
        for file, now in states_of(addresses).items():
            words = changed_words(file, self.known.get(file, {}), now)
            if words is not None:
                raise SourceError(f"{words}; embed it again into another --run")

    def _batches(
        self, parquet: pq.ParquetFile, file: str, row_group: int, columns: list[str]
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """A row group's columns a few rows at a time, each with the number of its first row."""
        rows = rows_together(parquet.metadata, row_group, columns)
        reading: Iterator[pa.RecordBatch] | None = None
        first = 0

        def following() -> pa.RecordBatch | None:
            """After a failure that passes from the start again, past the rows that were handed on."""
            nonlocal reading
            if reading is None:
                reading = parquet.iter_batches(rows, row_groups=[row_group], columns=columns)
                passed = 0
                while passed < first:
                    passed += next(reading).num_rows
            try:
                return next(reading, None)
            except BaseException:
                reading = None
                raise

        while (batch := self._reading(following, file, row_group)) is not None:
            yield first, batch
            first += batch.num_rows

    def _image_column(self, side: int) -> str:
        columns = self.columns
        return columns.get(f"image_{side}_bytes") or columns[f"image_{side}_path"]

    def _read_groups(self, parquet: pq.ParquetFile, file: str, row_groups: list[int], columns: list[str]) -> pa.Table:
        try:
            return parquet.read_row_groups(row_groups, columns=columns)
        except Exception:  # one by one: what passes is tried again, and the message names the one
            return pa.concat_tables([self._read(parquet, file, row_group, columns) for row_group in row_groups])

    def _read(self, parquet: pq.ParquetFile, file: str, row_group: int, columns: list[str]) -> pa.Table:
        return self._reading(lambda: parquet.read_row_group(row_group, columns=columns), file, row_group)

    def _reading(self, read: Callable[[], T], file: str, row_group: int) -> T:
        try:
            return retrying(read, f"{file}: row group {row_group}")
        except Exception as error:  # every remote file system raises its own errors
            if changed_meanwhile(error):
                raise SourceError(f"{file} changed while it was read; embed it again into another --run") from error
            if not isinstance(error, OSError | pa.ArrowException):
                raise
            raise SourceError(
                f"{file}: row group {row_group} cannot be read ({error}); fetch the file again"
            ) from error


def _parquet(file: str) -> pq.ParquetFile:
    """Opened so that only the bytes of the columns that are asked for travel, in few requests."""
    filesystem, path = filesystem_of(file)
    if is_local(file):  # mapped into memory it would be as fast, and a file that is cut meanwhile end the process
        return pq.ParquetFile(path, buffer_size=READ_BUFFER_BYTES, pre_buffer=False)
    stream = filesystem.open(path, "rb", cache_type="none")
    parquet = pq.ParquetFile(stream, pre_buffer=True)
    groups = map(parquet.metadata.row_group, range(parquet.num_row_groups))
    if max((group.total_byte_size for group in groups), default=0) <= WHOLE_GROUP_BYTES:
        return parquet
    return pq.ParquetFile(stream, metadata=parquet.metadata, buffer_size=8 * READ_BUFFER_BYTES, pre_buffer=False)


def _checked_text(arrays: dict[str, pa.ChunkedArray]) -> np.ndarray | None:
    """Every text made whole in its place; which rows had one that was not."""
    bad: np.ndarray | None = None
    for ours, column in arrays.items():
        if pa.types.is_string(column.type):
            arrays[ours], found = whole_text(column)
            if found is not None:
                bad = found if bad is None else bad | found
    return bad


def _text_array(values: list[str | None]) -> pa.Array:
    """Text of which some may be paths that are no UTF-8: `whole_text` finds them."""
    raw = pa.array([None if value is None else os.fsencode(value) for value in values], pa.binary())
    return pa.Array.from_buffers(pa.string(), len(raw), raw.buffers(), raw.null_count)


def _fetch_all(values: list[str | None], beside: str) -> list[bytes | None]:
    """Each path's or URL's bytes, or those inside another file; URLs several at once: each waits for its server."""
    if inside := [value for value in values if value and is_member(value)]:
        members = dict(read_members(inside))
        others = iter(_fetch_all([value for value in values if value not in members], beside))
        return [members[value] if value in members else next(others) for value in values]
    if not any(value and not is_local(_absolute(value, beside)) for value in values):
        return [_fetch(value, beside) for value in values]
    with ThreadPoolExecutor(URLS_AT_ONCE) as pool:
        return list(pool.map(lambda value: _fetch(value, beside), values))


def _fetch(value: str | None, beside: str) -> bytes | None:
    """The bytes at a path or URL, relative to the Parquet file it stands in."""
    if value is None:
        return None
    location = _absolute(value, beside)
    try:
        return read_whole(location)
    except ValueError:
        return None  # no path and no URL; counted as image_missing
    except Exception as error:  # every remote file system raises its own errors; an outage must not drop images
        if is_absent(error):
            return None  # counted as image_missing
        raise SourceError(f"{location} cannot be read: {why(error)}; run again to go on") from error


def _absolute(value: str, beside: str) -> str:
    return value if "://" in value or value.startswith("/") else f"{beside.rpartition('/')[0]}/{value}"
