"""A split's files as one DuckDB view, `source`, on a connection that sees them and nothing else."""

import re
from codecs import BOM_UTF8
from collections.abc import Callable
from pathlib import Path

import duckdb
import fsspec
import pyarrow as pa

from curate.database.connection import connect, first_line, literal
from curate.errors import SourceError
from curate.sources.layouts.preparation import FOLDER, kind_of, quoted
from curate.sources.layouts.samples import folder_rows, tar_rows

READERS = {
    ".parquet": "read_parquet({files}, union_by_name = true, hive_partitioning = false{named}, file_row_number = true)",
    ".json": "read_json({files}, {types}, hive_partitioning = false{named}{json})",
    # As the standard says it: what a look at the first rows would guess fails at a quote or a # in a later one.
    ".csv": "read_csv({files}, union_by_name = true, hive_partitioning = false, header = true, quote = '\"', "
    "escape = '\"', comment = ''{named})",
}
READERS |= dict.fromkeys((".jsonl", ".ndjson"), READERS[".json"]) | {".tsv": READERS[".csv"]}
TABLES: dict[str, Callable[[list[str]], pa.Table]] = {
    ".tar": tar_rows,
    FOLDER: lambda folders: pa.concat_tables([folder_rows(Path(folder)) for folder in folders]),
}


def connect_source(
    files: list[str], spill: Path | None = None, also: tuple[str, ...] = ()
) -> duckdb.DuckDBPyConnection:
    """A connection with the view `source` over the files, which reads nothing else: no file, network or extension.

    Beside a table's own columns there is `filename` (`source_filename` where it has one of this name), and for Parquet
    `file_row_number`. A column of bytes or of
    Hugging Face images holds each picture's address instead, so that no picture is read. also: paths it may write.
    Raises: SourceError.
    """
    kinds = {kind_of(file) for file in files}
    if len(kinds) > 1:
        raise SourceError(f"the files are of several kinds, {', '.join(sorted(kinds))}; name one kind with --source")
    connection = connect()
    if spill is not None:
        connection.execute(f"set temp_directory = {literal(str(spill))}")
    kind = kinds.pop()
    if kind in TABLES:
        connection.register("source", TABLES[kind](files))
    else:
        _view(connection, kind, files)
    allowed = ", ".join(map(literal, (*files, *also)))
    connection.execute(f"set allowed_paths = [{allowed}]")
    connection.execute("set enable_external_access = false")
    connection.execute("set lock_configuration = true")
    return connection


def _view(connection: duckdb.DuckDBPyConnection, kind: str, files: list[str]) -> None:
    for protocol in {file.split("://", 1)[0] for file in files if "://" in file}:
        connection.register_filesystem(fsspec.filesystem(protocol))
    listed = f"[{', '.join(map(literal, files))}]"
    json_form = _json_form(files[0]) if kind == ".json" else ""
    told = {"files": listed, "json": json_form, "types": "union_by_name = true"}
    try:
        columns = connection.execute(f"describe from {READERS[kind].format(**told, named='')}").fetchall()
        named = "source_filename" if "filename" in {name.lower() for name, *_ in columns} else "filename"
        if READERS[kind] == READERS[".json"] and not any(
            re.search("DATE|TIME", of) for _, of, *_ in columns
        ):  # these have formats, too
            types = ", ".join(f"{literal(name)}: {literal(of)}" for name, of, *_ in columns)
            told["types"] = f"columns = {{{types}}}"  # or each use of the view looks through all files for them again
        reader = READERS[kind].format(**told, named=f", filename = '{named}'")
        pictures = [name for name, column_type, *_ in columns if _holds_bytes(column_type)]
        addresses = [
            f"""{named} || {literal(f"::{name}/")} || file_row_number as {quoted(name)}""" for name in pictures
        ]
        stars = f"* replace ({', '.join(addresses)})" if addresses else "*"
        connection.execute(f"create view source as select {stars} from {reader}")
    except duckdb.Error as error:
        raise unreadable(files, error) from error


def unreadable(files: list[str], error: duckdb.Error) -> SourceError:
    """DuckDB's words, which name the file and the line where they can, and what to do."""
    words = first_line(error).rstrip(". ")
    named = any(file in words for file in files)
    return SourceError(f"{'' if named else f'{files[0]} cannot be read: '}{words}; correct the file, or leave it out")


def _json_form(file: str) -> str:
    """An array is said to be one where a byte order mark leads: DuckDB's own look at it is misled by the mark."""
    with fsspec.open(file, "rb") as stream:
        head = stream.read(64)
    return ", format = 'array'" if head.startswith(BOM_UTF8) and head[3:].lstrip().startswith(b"[") else ""


def _holds_bytes(column_type: str) -> bool:
    image = column_type.startswith("STRUCT(") and "bytes BLOB" in column_type and not column_type.endswith("]")
    return image or column_type == "BLOB"
