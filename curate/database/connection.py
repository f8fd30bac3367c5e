"""DuckDB over a run's tables: views by name, errors that say what to do."""

import glob
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from curate.database.interrupts import stops_at_ctrl_c
from curate.errors import RunError
from curate.storage.run import PART_TABLES, Run
from curate.storage.tables import atomic_path
from schemas.tables import PAIRS

EMBEDDED = ("pairs", *PART_TABLES)


# No view of ours needs an extension or a variable of the calling Python.
CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "python_enable_replacements": False,
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
}


def connect(database: str = ":memory:") -> duckdb.DuckDBPyConnection:
    """A connection that loads no extension, sees no variable of Python, and draws no progress: that goes to stdout."""
    connection = duckdb.connect(database, config=CONFIG)
    connection.execute("set enable_progress_bar = false")
    return connection


def connect_views(run: Run, database: str = ":memory:", *, rankings: bool = True) -> duckdb.DuckDBPyConnection:
    """A connection with one view per table of the run and, with `rankings`, one per ranking. Raises RunError."""
    connection = stops_at_ctrl_c(connect(database))
    connection.execute(f"set temp_directory = {literal(str((run.root / '.spill').resolve()))}")
    with at_once(connection):
        for name in EMBEDDED:
            pattern = run.pairs if name == "pairs" else run.table(name) / "*.parquet"
            arrays, added = _array_columns(pattern), _added_columns(pattern) if name == "pairs" else {}
            create_parquet_view(connection, name, pattern.resolve(), arrays, added)
        create_tags_view(connection, run)
        for path in sorted(run.rankings.glob("*.parquet")) if rankings else ():
            create_parquet_view(connection, f"ranking_{path.stem}", path.resolve())
    return connection


def create_tags_view(connection: duckdb.DuckDBPyConnection, run: Run) -> None:
    """`tags`, without a row where nobody has given one. Raises RunError."""
    if run.tags.exists():
        create_parquet_view(connection, "tags", run.tags.resolve())
    else:
        create_view(connection, "tags", "select null::varchar as pair_id, null::varchar as tag where false")


@contextmanager
def at_once(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """One transaction, whole or not at all: in a file, each that is committed by itself is waited for by itself."""
    connection.begin()
    try:
        yield
    except BaseException:
        connection.rollback()
        raise
    connection.commit()


def seal(connection: duckdb.DuckDBPyConnection, run: Run) -> None:
    """From here on the connection reads inside the run directory only, whatever a user's SQL says.

    Nothing else of the disk, no network, no extension, no attached database, no changed setting.
    """
    tables = (run.root, run.rankings, *map(run.table, EMBEDDED))
    # Where links lead, too: a run's tables may lie on another disk. A folder with a bracket is also met as a pattern.
    folders = [folder.resolve() for folder in tables]
    folders += [Path(glob.escape(str(folder))) for folder in folders]
    allowed = ", ".join(literal(str(folder)) for folder in dict.fromkeys(folders))
    paths = fetch(connection, "select current_setting('allowed_paths')")[0][0]
    pairs = literal(str(run.pairs.resolve()))
    connection.execute(f"set allowed_paths = [{', '.join([*map(literal, paths), pairs])}]")
    connection.execute(f"set allowed_directories = [{allowed}]")
    connection.execute("set enable_external_access = false")
    connection.execute("set lock_configuration = true")


def create_parquet_view(
    connection: duckdb.DuckDBPyConnection,
    name: str,
    pattern: Path,
    arrays: dict[str, int] | None = None,
    added: dict[str, str] | None = None,
) -> None:
    """A view over one Parquet file or a glob of them. Raises RunError when it cannot be read.

    arrays: column -> length of the float arrays that DuckDB reads as lists, since Parquet keeps no length.
    added: column -> type of those that the file lacks; they are null.
    """
    casts = ", ".join(f'"{column}"::float[{length}] as "{column}"' for column, length in (arrays or {}).items())
    nulls = "".join(f', null::{kind} as "{column}"' for column, kind in (added or {}).items())
    columns = (f"* replace ({casts})" if casts else "*") + nulls
    try:
        create_view(connection, name, f"select {columns} from {parquet_rows(pattern)}")
    except duckdb.Error as error:
        again = f"curate rank --name {pattern.stem}" if name.startswith("ranking") else "curate embed"
        raise RunError(f"{pattern} cannot be read ({first_line(error)}); run `{again}` again") from error


def parquet_rows(pattern: Path) -> str:
    """SQL for the rows of one file or a glob of them: folders' names mean nothing.

    They may have brackets, and below one named `prompt=x` DuckDB itself gives every row that prompt.
    """
    found = literal(str(Path(glob.escape(str(pattern.parent))) / pattern.name))
    return f"read_parquet({found}, hive_partitioning = false)"


def _array_columns(pattern: Path) -> dict[str, int]:
    """Column -> length of the fixed-size lists of a table, by its first file; the other parts are alike."""
    first = min(pattern.parent.glob(pattern.name), default=None)
    try:
        schema = pa.schema([]) if first is None else pq.read_schema(first)
    except (pa.ArrowInvalid, OSError):
        return {}  # the view over it says what is wrong with the file
    return {field.name: field.type.list_size for field in schema if pa.types.is_fixed_size_list(field.type)}


def _added_columns(pairs: Path) -> dict[str, str]:
    """Columns that runs of an earlier version have not, with their types."""
    try:
        there = set(pq.read_schema(pairs).names)
    except (pa.ArrowInvalid, OSError):
        return {}
    return {name: "float" for name in ("strength", "disagreement") if name not in there}


def create_view(connection: duckdb.DuckDBPyConnection, name: str, query: str) -> None:
    """`create or replace view`, with the query's own comments left in."""
    connection.execute(f'create or replace view "{name}" as\n{query}')


def copy_query(
    connection: duckdb.DuckDBPyConnection, query: str, parameters: dict[str, Any], path: Path, schema: pa.Schema
) -> None:
    """Write a query's rows, in its order, to a Parquet file whose columns are those of `schema`.

    Raises: WriteError; ValueError when the query's columns are not the schema's.
    """
    with atomic_path(path) as temporary:
        target = literal(str(temporary.resolve()))
        try:
            # Most bytes are ids and floats: level 1 takes half the time of level 3, and version 2's encodings make
            # the file a sixth smaller in less time. Hardly a value comes twice: no dictionary is looked for.
            form = "format parquet, parquet_version v2, compression zstd, compression_level 1, dictionary_size_limit 1"
            connection.execute(f"copy (\n{query}\n) to {target} ({form})", parameters).fetchall()
        except duckdb.IOException as error:  # a full disk, a folder that cannot be written
            raise OSError(first_line(error)) from error
        written = [(field.name, field.type) for field in pq.read_schema(temporary)]
        if written != [(field.name, field.type) for field in schema]:
            raise ValueError(f"{path.name} was to have the columns {schema}, the query gave {written}")


def fetch(connection: duckdb.DuckDBPyConnection, query: str, parameters: Any = None) -> list[tuple[Any, ...]]:
    """All rows of a query of ours. DuckDB 2 keeps a connection busy until the last row is fetched."""
    return connection.execute(query, parameters).fetchall()


def fetch_count(connection: duckdb.DuckDBPyConnection, relation: str) -> int:
    """Rows of a view or table."""
    return int(fetch(connection, f'select count(*) from "{relation}"')[0][0])


def kept_columns(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """The source's own columns that the view `pairs` has, quoted."""
    found = [str(column[0]) for column in connection.execute("select * from pairs limit 0").description or []]
    return ['"' + name.replace('"', '""') + '"' for name in found if name not in PAIRS.names]


def literal(text: str) -> str:
    """A SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def first_line(error: Exception) -> str:
    """The first line of DuckDB's message; the rest is a picture of the query."""
    return str(error).split("\n", 1)[0]


Rows = list[dict[str, Any]]


def query_rows(connection: duckdb.DuckDBPyConnection, query: str, **params: Any) -> Rows:
    """All rows of a query of ours, each as a dict."""
    return connection.sql(query, params=params or None).to_arrow_table().to_pylist()
