"""Pictures by address: a path, a URL, a member of a zip or tar, or a cell of a Parquet file.

An address inside another file is FILE::MEMBER; a tar's member has its place behind it, FILE.tar::MEMBER@OFFSET+SIZE,
and a cell is FILE.parquet::COLUMN/ROW. Nothing is ever unpacked here: a member's name leads to bytes, to no path.
"""

import bz2
import gzip
import hashlib
import io
import json
import lzma
import re
import shutil
import tarfile
import zipfile
import zlib
from bisect import bisect
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from threading import Lock
from typing import IO, Any, NamedTuple, Protocol

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from curate.errors import SourceError
from curate.sources.columns import image_at
from curate.storage.files import Fingerprint, fingerprint, retrying
from curate.storage.folder import LocalFolder
from curate.terminal.progress import say
from schemas.remote import why

INSIDE = re.compile(r"^(?P<file>.+?\.(?:zip|tar|parquet))::(?P<member>.+)$", re.IGNORECASE | re.DOTALL)
PLACED = re.compile(r"^(?P<name>.*)@(?P<offset>\d+)\+(?P<size>\d+)$", re.DOTALL)
COMPRESSED_TAR = re.compile(r"\.(tgz|tar\.gz|tar\.bz2|tar\.xz)(?:\.[\w-]+)?$", re.IGNORECASE)
SPLIT_TAR = re.compile(r"\.tar\.(?!gz|bz2|xz|zst)[\w-]+$", re.IGNORECASE)
OPEN_AT_ONCE = 64
CELLS_TOGETHER = 256
END_BYTES = 64
MOST_MEMBER_BYTES = 1 << 28
"""More than any picture that is decoded: what is larger, or a bomb that says it is not, fills no memory."""


class Member(NamedTuple):
    """A regular file of an archive. offset: where its bytes begin, or None in a zip, which finds them by name."""

    name: str
    size_bytes: int
    offset: int | None = None

    def address(self, archive: str) -> str:
        """What `read_members` finds it by."""
        place = "" if self.offset is None else f"@{self.offset}+{self.size_bytes}"
        return f"{archive}::{self.name}{place}"


def is_member(address: str) -> bool:
    """Whether an address leads into another file."""
    return "::" in address and INSIDE.match(address) is not None


def read_members(addresses: Iterable[str]) -> Iterator[tuple[str, bytes | None]]:
    """Each distinct address with its bytes (None: no such member, or an empty cell); each file in its own order.

    Raises: SourceError when the file that holds them cannot be read.
    """
    wanted: dict[str, list[str]] = {}
    for address in dict.fromkeys(addresses):
        found = INSIDE.match(address)
        assert found is not None, address
        wanted.setdefault(found["file"], []).append(found["member"])
    for file, members in wanted.items():
        try:
            for member, data in _opened(file).read(members):
                yield f"{file}::{member}", data
        except SourceError:
            raise
        except Exception as error:  # every remote file system raises its own errors
            raise SourceError(f"{file} cannot be read: {why(error)}; run again to go on") from error


def states_of(addresses: Iterable[str]) -> dict[str, Fingerprint]:
    """Each file that addresses lead into, as it was when it was opened. Raises: as `read_members`."""
    files = {found["file"] for found in map(INSIDE.match, addresses) if found is not None}
    return {file: _opened(file).state for file in files}


def list_members(archive: str) -> list[Member]:
    """The regular files of a zip or tar, in its order. Links, devices, names that climb out, and what is larger than
    MOST_MEMBER_BYTES are left out, as is what has the name of another; how many is said.

    Raises: SourceError when it is no archive, or ends early.
    """
    try:
        found = list(_zip_members(archive) if archive.lower().endswith(".zip") else _tar_members(archive))
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise SourceError(f"{archive} is no whole archive ({error}); fetch it again") from error
    except Exception as error:  # every remote file system raises its own errors
        raise SourceError(f"{archive} cannot be read: {why(error)}") from error
    named: dict[str, list[Member]] = {}
    for member in found:
        named.setdefault(_inner_name(member.name), []).append(member)
    kept = {
        name: same[0]._replace(name=name)
        for name, same in named.items()
        if name and len(same) == 1 and same[0].size_bytes <= MOST_MEMBER_BYTES
    }
    if left := len(found) - len(kept):
        first = next(name or same[0].name for name, same in named.items() if name not in kept)
        say(
            f"note: {archive}: {left:,} members are left out, for their name leads out of it or is there twice, or "
            f"they have more than {MOST_MEMBER_BYTES:,} bytes, first '{first}'"
        )
    return list(kept.values())


def needs_unpacking(files: tuple[str, ...]) -> bool:
    """Whether it takes reading from the start to find a member: a compressed tar, or one in several files."""
    return any(COMPRESSED_TAR.search(file) or SPLIT_TAR.search(file) for file in files)


def unpacked(files: tuple[str, ...], folder: Path) -> str:
    """One tar in `folder` with the members of a compressed or split archive, which is read once, in its order.

    files: one archive, or all pieces of one. The tar's name holds a hash of their names, sizes and ends (a gzip's
    checksum): what is there from an earlier call is kept, and another archive of this name lies beside it. Processes
    wait for each other.
    Raises: SourceError when the disk is too small, or the archive ends early; nothing half-written keeps the name.
    """
    files = tuple(sorted(files, key=_by_number))
    first = files[0]
    sizes = {file: int(fingerprint(file)["size"]) for file in files}
    made_from = [(Path(file).name, size, _end(file, size)) for file, size in sizes.items()]
    made = hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:8]
    target = folder / f"{re.split(r'[.](?:tar|tgz)', Path(first).name, maxsplit=1)[0]}-{made}.tar"
    with LocalFolder(folder).alone():
        if not target.exists():
            _unpack(list(files), target, sum(sizes.values()))
    return str(target)


def _end(file: str, size: int) -> str:
    with fsspec.open(file, "rb") as stream:
        stream.seek(max(size - END_BYTES, 0))
        return str(stream.read().hex())


def _unpack(files: list[str], target: Path, needed: int) -> None:
    """needed: bytes, at least."""
    first, folder = files[0], target.parent
    if (free := shutil.disk_usage(folder).free) < needed:
        raise SourceError(
            f"{folder}: {first} takes at least {needed:,} bytes unpacked, {free:,} are free; name another"
        )
    say(f"unpacking {first} into {target}, at least {needed:,} bytes; this is done once")
    unfinished = target.with_suffix(".partial")
    try:
        with unfinished.open("wb") as out, _decompressed(files) as stream:
            shutil.copyfileobj(stream, out, 1 << 24)
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        unfinished.unlink()
        raise SourceError(f"{first} is no whole archive ({error}); fetch it again") from error
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise SourceError(f"{first} cannot be unpacked into {folder}: {error}") from error
    unfinished.replace(target)


@contextmanager
def _decompressed(files: list[str]) -> Iterator[Any]:
    """The files' bytes one after another, decompressed by the ending of their common name."""
    with ExitStack() as stack:
        joined = io.BufferedReader(_Joined([stack.enter_context(fsspec.open(file, "rb")) for file in files]), 1 << 20)
        found = COMPRESSED_TAR.search(files[0])
        kind = found[1].lower() if found else ""
        if kind in ("tgz", "tar.gz"):
            yield stack.enter_context(gzip.GzipFile(fileobj=joined))
        elif kind == "tar.bz2":
            yield stack.enter_context(bz2.BZ2File(joined))
        elif kind == "tar.xz":
            yield stack.enter_context(lzma.LZMAFile(joined))
        else:
            yield joined


class _Joined(io.RawIOBase):
    """Several streams as one."""

    def __init__(self, streams: list[IO[bytes]]) -> None:
        self.streams = streams

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while self.streams:
            if data := self.streams[0].read(len(buffer)):
                buffer[: len(data)] = data
                return len(data)
            self.streams.pop(0)
        return 0


def _by_number(name: str) -> list[str | int]:
    """Pieces in their order: part2 before part10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _inner_name(name: str) -> str:
    """A member's name without a leading ./, or nothing where it climbs out."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    return "" if ".." in parts or name.startswith("/") else "/".join(parts)


def _tar_members(archive: str) -> Iterator[Member]:
    with fsspec.open(archive, "rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(0)
        with tarfile.open(fileobj=stream, mode="r:") as tar:
            for info in tar:
                tar.members = []  # type: ignore[attr-defined]  # a million would be kept
                if info.isreg():
                    if info.offset_data + info.size > size:
                        raise EOFError(f"'{info.name}' is cut off")
                    yield Member(info.name, info.size, info.offset_data)
            stream.seek(tar.offset)  # tarfile takes a header that it cannot read for the end
            if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise EOFError(f"neither a member nor its end at byte {tar.offset:,}")


def _zip_members(archive: str) -> Iterator[Member]:
    with fsspec.open(archive, "rb") as stream, zipfile.ZipFile(stream) as opened:
        for info in opened.infolist():
            link = (info.external_attr >> 16) & 0o170000 == 0o120000
            if not (info.is_dir() or link):
                yield Member(info.filename, info.file_size)


class _Container(Protocol):
    state: Fingerprint

    def read(self, members: list[str]) -> Iterator[tuple[str, bytes | None]]: ...


@lru_cache(OPEN_AT_ONCE)
def _opened(file: str) -> _Container:
    """Opened once a process, not once a picture."""
    kind: type[_Tar] | type[_Zip] | type[_Cells]
    kind = {"zip": _Zip, "tar": _Tar}.get(file.rsplit(".", 1)[1].lower(), _Cells)  # type: ignore[assignment]
    try:
        return kind(file, fsspec.open(file, "rb").open(), Lock(), fingerprint(file))
    except Exception as error:  # every remote file system raises its own errors
        raise SourceError(f"{file} cannot be opened: {why(error)}") from error


@dataclass(eq=False)
class _Tar:
    file: str
    stream: Any
    lock: Lock
    state: Fingerprint

    def read(self, members: list[str]) -> Iterator[tuple[str, bytes | None]]:
        places = {member: PLACED.match(member) for member in members}
        for member, place in sorted(places.items(), key=lambda item: int(item[1]["offset"]) if item[1] else -1):
            yield member, None if place is None else self._bytes(int(place["offset"]), int(place["size"]))

    def _bytes(self, offset: int, size: int) -> bytes:
        def read() -> bytes:
            with self.lock:
                self.stream.seek(offset)
                return bytes(self.stream.read(size))

        return retrying(read, self.file)


@dataclass(eq=False)
class _Zip:
    file: str
    stream: Any
    lock: Lock
    state: Fingerprint

    def __post_init__(self) -> None:
        self.archive = zipfile.ZipFile(self.stream)
        self.names = {_inner_name(info.filename): info for info in self.archive.infolist() if not info.is_dir()}

    def read(self, members: list[str]) -> Iterator[tuple[str, bytes | None]]:
        found = {member: self.names.get(member) for member in members}
        for member, info in sorted(found.items(), key=lambda item: item[1].header_offset if item[1] else -1):
            yield member, None if info is None else self._bytes(info)

    def _bytes(self, info: zipfile.ZipInfo) -> bytes | None:
        def read() -> bytes:
            with self.archive.open(info) as member:
                return member.read(MOST_MEMBER_BYTES + 1)

        try:
            with self.lock:
                data = retrying(read, self.file)
            return data if len(data) <= MOST_MEMBER_BYTES else b""
        except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, RuntimeError, NotImplementedError, EOFError):
            return b""  # a damaged or encrypted member costs its own picture


@dataclass(eq=False)
class _Cells:
    """Cells of a Parquet file's columns of bytes; each row group is read once for all that is asked of it."""

    file: str
    stream: Any
    lock: Lock
    state: Fingerprint

    def __post_init__(self) -> None:
        self.parquet = pq.ParquetFile(self.stream)
        counts = [self.parquet.metadata.row_group(group).num_rows for group in range(self.parquet.num_row_groups)]
        self.ends = [0, *accumulate(counts)]
        self.last: dict[str, tuple[int, list[pa.RecordBatch]]] = {}

    def read(self, members: list[str]) -> Iterator[tuple[str, bytes | None]]:
        wanted: dict[tuple[int, str], dict[str, int]] = {}
        for member in members:
            column, _, row = member.rpartition("/")
            group = bisect(self.ends, int(row)) - 1
            wanted.setdefault((group, column), {})[member] = int(row) - self.ends[group]
        for (group, column), rows in sorted(wanted.items(), key=lambda item: item[0]):
            batches = self._batches(group, column)
            for member, place_in_group in rows.items():
                batch, cell = divmod(place_in_group, CELLS_TOGETHER)
                data, _ = image_at(batches[batch].column(0), cell)
                yield member, None if data is None else data.to_pybytes()

    def _batches(self, group: int, column: str) -> list[pa.RecordBatch]:
        """A column of a row group, some rows at a time; of each column the one that was read last is at hand."""

        def read() -> list[pa.RecordBatch]:
            return list(self.parquet.iter_batches(CELLS_TOGETHER, row_groups=[group], columns=[column]))

        with self.lock:
            if column not in self.last or self.last[column][0] != group:
                self.last.pop(column, None)  # two are never held
                self.last[column] = (group, retrying(read, self.file))
            return self.last[column][1]
