"""Parquet in and out, always against a schema, always whole: a table is either in place or not there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from curate.errors import WriteError


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` that becomes `path` when the block ends well, and is removed otherwise.

    The name is the same each time, so that what a killed process left is replaced, not gathered.
    Raises: WriteError when the disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)  # some programs would go on with what a killed one left
        try:
            yield temporary
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals into a WriteError that names `path` and says what to do."""
    try:
        yield
    except OSError as error:
        detail = error.strerror or str(error)
        raise WriteError(f"cannot write {path}: {detail}; make room or choose another --run, then run again") from error


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
