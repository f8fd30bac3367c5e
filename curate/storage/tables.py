"""Parquet in and out, always against a schema, always whole: a table is either in place or not there."""

import glob
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from curate.errors import WriteError

ABANDONED_SEC = 3600.0


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` that becomes `path` when the block ends well, and is removed otherwise.

    The name is this process's own, for several may write one file; what killed ones left is removed.
    Raises: WriteError when the disk is full or the folder cannot be written.
    """
    temporary = temporary_path(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        try:
            yield temporary
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def temporary_path(path: Path) -> Path:
    """This process's own name for `path` while it is written."""
    return path.with_name(f".{path.name}.{os.getpid()}@{socket.gethostname()}.tmp")


def _remove_abandoned(path: Path) -> None:
    """Temporary files of `path` whose process is gone; those of another machine once no write takes so long."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*@*.tmp"):
        process, _, host = left.name.removeprefix(f".{path.name}.").removesuffix(".tmp").partition("@")
        with suppress(FileNotFoundError):  # its process has just finished it
            if host == socket.gethostname():
                abandoned = int(process) == os.getpid() or not _is_running(int(process))
            else:
                abandoned = time.time() - left.stat().st_mtime > ABANDONED_SEC
            if abandoned:
                left.unlink()


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals into a WriteError that names `path` and says what to do."""
    try:
        yield
    except OSError as error:
        detail = error.strerror or str(error)
        raise WriteError(f"cannot write {path}: {detail}; make room or choose another place, then run again") from error


def write_table(table: pa.Table, path: Path, schema: pa.Schema) -> None:
    """Write `table` cast to `schema`. Nothing is left in place when writing fails."""
    with atomic_path(path) as temporary:
        pq.write_table(table.cast(schema), temporary, compression="zstd")


def write_text(text: str, path: Path) -> None:
    """Write a small text file whole."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def rows_table(rows: list[dict[str, object]], schema: pa.Schema) -> pa.Table:
    """Rows as a table of `schema`, also when there are none."""
    return pa.Table.from_pylist(rows, schema=schema)
