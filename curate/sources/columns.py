"""Columns of a data set's files under our names: of whatever type their writer chose, and text that may not be text."""

import difflib
import os
import uuid
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curate.errors import SourceError
from curate.sources.manifest import LABEL_COLUMNS, Manifest

IMAGE_COLUMNS = ("image_0_bytes", "image_1_bytes")
BATCH_BYTES = 2_000_000
MOST_BATCH_ROWS = 256


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind)


def _is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


def _is_uuid(kind: pa.DataType) -> bool:
    return isinstance(kind, pa.UuidType)


# What each column may hold; the second item says it in the error.
_KINDS: dict[str, tuple[Any, str]] = {
    "text": (_is_text, "text"),
    "label": (lambda kind: _is_number(kind) or pa.types.is_boolean(kind) or _is_text(kind), "a number or text"),
    "votes": (lambda kind: pa.types.is_list(kind) or pa.types.is_large_list(kind) or _is_text(kind), "a list or text"),
    "flag": (pa.types.is_boolean, "true or false"),
    "bytes": (_is_bytes, "bytes"),
    "id": (lambda kind: _is_text(kind) or _is_number(kind) or _is_uuid(kind), "text or a whole number"),
}


def check_columns(schema: pa.Schema, manifest: Manifest, file: str) -> None:
    """Raises SourceError for a column of the manifest that is not there, is there twice, or is of no fitting type."""
    for ours, theirs in [*manifest.columns.items(), *(("", name) for name in manifest.keep)]:
        found = schema.names.count(theirs)
        if found > 1:
            raise SourceError(f"{file}: {found} columns are named '{theirs}'; rename all but one")
        if not found:
            close = difflib.get_close_matches(theirs, schema.names, n=1)
            hint = f"; did you mean '{close[0]}'?" if close else f"; it has {', '.join(schema.names)}"
            asked = f"which {manifest.path.name} " + (f"maps to columns.{ours}" if ours else "keeps")
            raise SourceError(f"{file}: no column '{theirs}', {asked}{hint}")
        if not ours:
            continue
        kind = _value_type(schema.field(theirs).type)
        fits = _KINDS[_kind(ours)][0](kind) or pa.types.is_null(kind)  # a column without one value has no type
        if not fits:
            raise _mistyped(file, manifest, ours, kind)


def canonical(column: pa.ChunkedArray, ours: str, file: str, manifest: Manifest) -> pa.ChunkedArray:
    """Labels as float64, flags as they are, all else as text, which `whole_text` is to look at.

    Raises: SourceError for a number that is to be an id and is not whole.
    """
    column = _plain(column)
    kind = _kind(ours)
    if kind in ("flag", "votes"):
        return column
    if kind == "label" and not _is_text(column.type):
        return column.cast(pa.float64())
    if _is_uuid(column.type):
        return _uuid_text(column)
    if pa.types.is_floating(column.type) or pa.types.is_decimal(column.type):  # pandas: whole numbers beside a null
        numbers = column.cast(pa.float64())
        try:
            column = pc.if_else(pc.is_nan(numbers), None, numbers).cast(pa.int64())
        except pa.ArrowInvalid as error:
            raise _mistyped(file, manifest, ours, column.type) from error
    return column.cast(pa.string())


def whole_text(column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, np.ndarray | None]:
    """The text, and of which rows it is no UTF-8; None where it is everywhere. There U+FFFD stands for what is not.

    Parquet says of bytes that they are UTF-8, and no reader checks it: later ones fail, or write it on.
    """
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        raw = column.cast(pa.binary()).to_pylist()
        texts = [None if value is None else value.decode("utf-8", "replace") for value in raw]
        same = [text is None or text.encode() == value for value, text in zip(raw, texts, strict=True)]
        return pa.chunked_array([pa.array(texts, pa.string())]), ~np.array(same)
    return column, None


def image_at(column: pa.Array, row: int) -> tuple[pa.Buffer | None, str | None]:
    """The encoded bytes in a row of an image column, else the path or URL beside them or in their stead."""
    if _is_text(column.type):
        return None, _path_at(column, row)
    if not pa.types.is_struct(column.type):
        return _bytes_at(column, row), None
    if not column[row].is_valid:
        return None, None
    data = _bytes_at(column.field("bytes"), row)
    has_path = data is None and column.type.get_field_index("path") >= 0
    return data, _path_at(column.field("path"), row) if has_path else None


def mean_bytes(metadata: pq.FileMetaData, row_groups: list[int], column: str) -> np.ndarray:
    """float64 (row groups,): bytes of one image as the file's metadata tells them, without reading any."""
    found = [metadata.row_group(row_group) for row_group in row_groups]
    return np.array([_leaf_bytes(group, [column]) / max(group.num_rows, 1) for group in found])


def rows_together(metadata: pq.FileMetaData, row_group: int, columns: list[str]) -> int:
    """Rows of an image column that are best decoded at a time.

    No batch reaches the 2 GiB at which arrow's arrays of structs end, and memory holds few, in no more CPU time than
    a whole row group takes (benchmarks/speed/read.py).
    """
    group = metadata.row_group(row_group)
    rows = BATCH_BYTES * group.num_rows // max(_leaf_bytes(group, columns), 1)
    return max(1, min(rows, MOST_BATCH_ROWS))


def _leaf_bytes(group: pq.RowGroupMetaData, columns: list[str]) -> int:
    wanted = {leaf for column in columns for leaf in (column, f"{column}.bytes")}
    leaves = (group.column(index) for index in range(group.num_columns))
    return sum(leaf.total_uncompressed_size for leaf in leaves if leaf.path_in_schema in wanted)


def _kind(ours: str) -> str:
    if ours in LABEL_COLUMNS:
        return "votes" if ours == "votes" else "label"
    if ours in ("annotator_id", "judgement_id", "image_0_uid", "image_1_uid"):
        return "id"
    if ours == "labelled":
        return "flag"
    return "bytes" if ours in IMAGE_COLUMNS else "text"


def _value_type(kind: pa.DataType) -> pa.DataType:
    """Hugging Face `Image` features hold a struct of bytes and path; its bytes are the value."""
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        return _value_type(kind.field("bytes").type)
    if pa.types.is_dictionary(kind):
        return _value_type(kind.value_type)
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) and not _is_uuid(kind) else kind


def _plain(column: Any) -> Any:
    """A column or array without dictionaries."""
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _bytes_at(column: pa.Array, row: int) -> pa.Buffer | None:
    value = column[row]
    if pa.types.is_dictionary(column.type):
        value = value.value  # the dictionary's: a thousand rows may share ten pictures
    return value.as_buffer() if value.is_valid and not pa.types.is_null(value.type) else None


def _path_at(column: pa.Array, row: int) -> str | None:
    """A path need not be UTF-8 where files are."""
    data = _bytes_at(column, row)
    return None if data is None else os.fsdecode(data.to_pybytes())


def _uuid_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    values = pa.chunked_array([chunk.storage for chunk in column.chunks], pa.binary(16)).to_pylist()
    return pa.chunked_array([pa.array([None if v is None else str(uuid.UUID(bytes=v)) for v in values], pa.string())])


def _mistyped(file: str, manifest: Manifest, ours: str, found: pa.DataType) -> SourceError:
    return SourceError(
        f"{file}: column '{manifest.columns[ours]}' holds {found}, but columns.{ours} needs {_KINDS[_kind(ours)][1]}; "
        f"correct {manifest.path.name} or the file"
    )
