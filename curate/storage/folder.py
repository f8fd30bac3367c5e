"""A folder whose files are whole under their names or not there at all; the same face by path and by URL.

On this machine that is a rename, and locks keep processes apart. The other form is curate/storage/url_folder.py.
"""

import fcntl
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curate.errors import RunError, WriteError
from curate.storage.files import file_sha256
from curate.storage.tables import atomic_path, write_table, writing

Entry = dict[str, Any]


class Folder(ABC):
    """Files by name, / between folders; `str` of it is what users call it."""

    remote: bool

    @abstractmethod
    def read(self, name: str) -> bytes:
        """A file. Raises: FileNotFoundError; OSError here, RunError at a URL when it cannot be read."""

    @abstractmethod
    def write(self, name: str, data: bytes) -> None:
        """A file, whole, whatever was there. Raises: WriteError."""

    @abstractmethod
    def create(self, name: str, data: bytes) -> bool:
        """The same unless it is there; False when it is. On this machine within `alone` only. Raises: WriteError."""

    @abstractmethod
    def write_table(self, table: pa.Table, name: str, schema: pa.Schema) -> Entry:
        """A Parquet file; the bytes and sha256 of what then stands under the name. Raises: WriteError."""

    @abstractmethod
    def read_table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """A Parquet file, or all of a folder in the order of their names."""

    @abstractmethod
    def names(self, folder: str) -> list[str]:
        """The files directly in a folder, sorted, without those whose names begin with a dot."""

    @abstractmethod
    def size(self, name: str) -> int | None:
        """Bytes of a file; None when it is not there."""

    def sizes(self, *folders: str) -> Callable[[str], int | None]:
        """`size` for many files that lie directly in these folders."""
        return self.size

    @abstractmethod
    def sha256(self, name: str) -> str:
        """Hex sha256 of a file's bytes, all of which are read."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file that may be gone already. Raises: WriteError."""

    def absolute(self) -> "Folder":
        """The same from any working directory."""
        return self

    @contextmanager
    def locked(self, shared: bool = False) -> Iterator[None]:
        """Keep out processes that do not share."""
        yield

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Take turns with other processes."""
        yield


@dataclass(frozen=True)
class LocalFolder(Folder):
    """A folder of this machine, or one that several machines mount."""

    path: Path
    remote = False

    def __str__(self) -> str:
        return str(self.path)

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def write(self, name: str, data: bytes) -> None:
        with atomic_path(self.path / name) as temporary:
            temporary.write_bytes(data)

    def create(self, name: str, data: bytes) -> bool:
        if (self.path / name).exists():
            return False
        self.write(name, data)
        return True

    def write_table(self, table: pa.Table, name: str, schema: pa.Schema) -> Entry:
        path = self.path / name
        write_table(table, path, schema)
        return {"bytes": path.stat().st_size, "sha256": file_sha256(path)}

    def read_table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        return pq.read_table(self.path / name, columns=columns, partitioning=None)

    def names(self, folder: str) -> list[str]:
        try:
            return sorted(path.name for path in (self.path / folder).iterdir() if not path.name.startswith("."))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def size(self, name: str) -> int | None:
        try:
            return (self.path / name).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def sha256(self, name: str) -> str:
        return file_sha256(self.path / name)

    def remove(self, name: str) -> None:
        with writing(self.path / name):
            (self.path / name).unlink(missing_ok=True)

    def absolute(self) -> "LocalFolder":
        return LocalFolder(self.path.absolute())

    @contextmanager
    def locked(self, shared: bool = False) -> Iterator[None]:
        """The lock goes with the process, however it ends. Raises: RunError when another process is in the way."""
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        with self._flock(".lock", kind | fcntl.LOCK_NB):
            yield

    @contextmanager
    def alone(self) -> Iterator[None]:
        """For the moment that a file takes which several processes may write: each waits for its turn."""
        with self._flock(".turn", fcntl.LOCK_EX):
            yield

    @contextmanager
    def _flock(self, name: str, kind: int) -> Iterator[None]:
        # By hand: `filelock` shares a lock through an SQLite file only, which no flock of ours would see. It also asks
        # every 50 ms where flock wakes: 8 processes of 50 turns, 2 ms each, took 0.9 s so, and 2.4 s by its FileLock.
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            stream = (self.path / name).open("w")
        with stream:
            try:
                with writing(self.path):
                    fcntl.flock(stream, kind)
            except WriteError as error:
                if not isinstance(error.__cause__, BlockingIOError):
                    raise
                raise RunError(
                    f"another process is writing to {self.path}; wait for it, or use another --run"
                ) from error
            yield
