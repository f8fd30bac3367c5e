"""A folder at a URL of any file system that fsspec knows.

A file is one object, which stores put in place whole. There are no locks: of two processes that write one table the
first stays.
"""

import hashlib
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from curate.errors import CurateError, RunError, UploadError, UsageError
from curate.storage.files import is_local, local_path, retrying
from curate.storage.folder import Entry, Folder, LocalFolder
from curate.storage.threads import in_threads
from schemas.remote import already_there, not_implemented

T = TypeVar("T")
THREADS = 8


class UrlFolder(Folder):
    """Objects under a URL; failures that pass are tried again, and said."""

    remote = True

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        try:  # kept, for fsspec makes another for each thread that asks, with connections of its own
            self.filesystem, self.root = fsspec.core.url_to_fs(self.url)
        except (ImportError, ValueError) as error:  # a package is missing, or no such protocol
            raise UsageError(f"{self.url}: {error}") from error

    def __str__(self) -> str:
        return self.url

    def read(self, name: str) -> bytes:
        def ask() -> bytes:
            self.filesystem.invalidate_cache(self._at(name))  # a listing from before another process wrote it
            return bytes(self.filesystem.cat_file(self._at(name)))

        return self._reading(name, ask)

    def write(self, name: str, data: bytes) -> None:
        with self._writing(name):
            retrying(lambda: self.filesystem.pipe_file(self._at(name), data), f"{self.url}/{name}")

    def create(self, name: str, data: bytes) -> bool:
        """As of `Folder`. S3 refuses a second one (If-None-Match); file systems that cannot are asked before, and
        then one that comes in between is overwritten."""
        with self._writing(name):
            try:
                retrying(lambda: self.filesystem.pipe_file(self._at(name), data, mode="create"), f"{self.url}/{name}")
            except (TypeError, NotImplementedError):
                return self._create_unless_seen(name, data)
            except Exception as error:
                if already_there(error):
                    return False
                if not_implemented(error):
                    return self._create_unless_seen(name, data)
                raise
        return True

    def write_table(self, table: pa.Table, name: str, schema: pa.Schema) -> Entry:
        """The first to write stays, so that every process's marker says the same, though they compute at once."""
        data = _parquet_bytes(table.cast(schema))
        if not self.create(name, data):
            first = self.read(name)
            if _is_alike(first, data):
                data = first
            else:  # half a file, where the file system does not put it in place whole
                self.write(name, data)
        return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    def read_table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        one = name.endswith(".parquet")
        files = [name] if one else [f"{name}/{file}" for file in self.names(name) if file.endswith(".parquet")]

        def read(file: str) -> pa.Table:
            return pq.read_table(io.BytesIO(self.read(file)), columns=columns)

        if one:
            return read(name)
        return pa.concat_tables(in_threads(read, files, THREADS))

    def names(self, folder: str) -> list[str]:
        return sorted(name.rpartition("/")[2] for name in self._listed(folder))

    def size(self, name: str) -> int | None:
        def ask() -> int:
            self.filesystem.invalidate_cache(self._at(name))  # other processes write here, too
            return int(self.filesystem.info(self._at(name))["size"])

        try:
            return self._reading(name, ask)
        except FileNotFoundError:
            return None

    def sizes(self, *folders: str) -> Callable[[str], int | None]:
        """As of now: a listing of each folder, which is a request for a thousand files, not one for each."""
        found: dict[str, int] = {}
        for folder in folders:
            found |= self._listed(folder)
        return found.get

    def sha256(self, name: str) -> str:
        return hashlib.sha256(self.read(name)).hexdigest()

    def remove(self, name: str) -> None:
        def ask() -> None:
            try:
                self.filesystem.rm_file(self._at(name))
            except FileNotFoundError:
                return

        with self._writing(name):
            retrying(ask, f"{self.url}/{name}")

    def put(self, local: Path, name: str) -> None:
        """Upload a file of this machine. Raises: UploadError, also when another number of bytes arrived."""
        with self._writing(name):
            retrying(lambda: self.filesystem.put_file(str(local), self._at(name)), f"{self.url}/{name}")
            self.filesystem.invalidate_cache(self._at(name))
            if (arrived := self.filesystem.size(self._at(name))) != local.stat().st_size:
                raise OSError(f"{arrived} bytes arrived of {local.stat().st_size}")

    def get(self, name: str, local: Path) -> None:
        """Download a file to this machine. Raises: FileNotFoundError, RunError."""

        def ask() -> None:
            self.filesystem.invalidate_cache(self._at(name))
            self.filesystem.get_file(self._at(name), str(local))

        self._reading(name, ask)

    def _at(self, name: str) -> str:
        return f"{self.root}/{name}"

    def _create_unless_seen(self, name: str, data: bytes) -> bool:
        if self.size(name) is not None:
            return False
        self.write(name, data)
        return True

    def _listed(self, folder: str) -> dict[str, int]:
        """The files directly in a folder with their sizes."""

        def ask() -> list[dict[str, Any]]:
            self.filesystem.invalidate_cache(self._at(folder))
            try:
                return list(self.filesystem.ls(self._at(folder), detail=True))
            except FileNotFoundError:
                return []

        found = self._reading(folder, ask)
        files = {one["name"].rpartition("/")[2]: int(one["size"]) for one in found if one["type"] == "file"}
        return {f"{folder}/{name}": size for name, size in files.items() if name and not name.startswith(".")}

    def _reading(self, name: str, ask: Callable[[], T]) -> T:
        try:
            return retrying(ask, f"{self.url}/{name}")
        except FileNotFoundError:
            raise
        except Exception as error:  # every remote file system raises its own errors
            raise RunError(f"{self.url}/{name} cannot be read: {type(error).__name__}: {error}") from error

    @contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        try:
            yield
        except CurateError:
            raise
        except Exception as error:  # every remote file system raises its own errors
            raise UploadError(
                f"cannot write {self.url}/{name}: {type(error).__name__}: {error}; run again to go on"
            ) from error


def folder_at(location: str) -> Folder:
    """The folder at a path or URL; file:// is this machine. Raises: UsageError when nothing here reads such a URL."""
    return LocalFolder(Path(local_path(location))) if is_local(location) else UrlFolder(location)


def _parquet_bytes(table: pa.Table) -> bytes:
    stream = io.BytesIO()
    pq.write_table(table, stream, compression="zstd")
    return stream.getvalue()


def _is_alike(first: bytes, data: bytes) -> bool:
    """Whether two Parquet files have as many rows of the same columns; False, too, when the first is none."""
    try:
        one, other = (pq.ParquetFile(io.BytesIO(content)) for content in (first, data))
    except pa.ArrowInvalid:
        return False
    return bool(one.metadata.num_rows == other.metadata.num_rows and one.schema_arrow.equals(other.schema_arrow))
