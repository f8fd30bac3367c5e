"""`curate sql`: any query over the run's views, as a table, CSV, JSON or a Parquet file."""

import csv
import io
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import IO

import duckdb

from curate.database.connection import first_line, literal, seal
from curate.database.user_sql import read_only_query
from curate.errors import QueryError
from curate.rank.rankings import open_views
from curate.storage.run import Run
from curate.storage.tables import atomic_path

WIDTH_CHARS, ROWS_SHOWN = 120, 40  # of a table, where no window says otherwise


def query(run: Run, sql: str, form: str = "table", out: IO[str] | None = None, parquet: Path | None = None) -> None:
    """Write one query's result to `out` (stdout) as "table", "csv" or "json", or to the file `parquet`.

    As tables the results of several queries may follow one another; the other forms take one.
    Raises: QueryError with DuckDB's message; RunError; WriteError.

    >>> from curate.storage import open_run
    >>> query(open_run("run"), "select count(*) as prompts from prompts where prompt = ''", "csv")
    prompts
    0
    """
    out = out or sys.stdout
    connection = open_views(run)
    if parquet is not None:
        _write_parquet(connection, run, sql, parquet)
        out.write(f"{parquet}\n")
        return
    seal(connection, run)
    for statement in statements_of(sql) if form == "table" else [sql]:
        write_result(connection, statement, form, out)


def statements_of(sql: str) -> list[str]:
    """The statements of a text, or the text itself where there is none. Raises: QueryError."""
    with duckdb_words():
        return [statement.query for statement in duckdb.extract_statements(sql)] or [sql]


@contextmanager
def duckdb_words() -> Iterator[None]:
    """DuckDB's errors become QueryError, in its own words."""
    try:
        yield
    except duckdb.Error as error:
        raise QueryError(f"sql: {error}") from error


def write_result(connection: duckdb.DuckDBPyConnection, sql: str, form: str, out: IO[str]) -> None:
    """Run one statement that only reads and write its result to `out`. Raises: QueryError."""
    relation = read_only_query(connection, sql, "sql")
    with duckdb_words():
        if form == "table":
            out.write(f"{table_text(relation, WIDTH_CHARS, ROWS_SHOWN)}\n")
        elif form == "csv":
            _write_csv(relation, out)
        else:
            _write_json(relation, out)


def table_text(relation: duckdb.DuckDBPyRelation, width_chars: int, rows: int) -> str:
    """A result as DuckDB draws it, shortened to a width and a number of rows; a plan as it stands."""
    if relation.columns == ["explain_key", "explain_value"]:
        return "\n".join(str(plan) for _, plan in relation.fetchall()).rstrip()
    with redirect_stdout(io.StringIO()) as drawn:
        relation.show(max_width=width_chars, max_rows=rows)
    return drawn.getvalue().rstrip()


def _write_parquet(connection: duckdb.DuckDBPyConnection, run: Run, sql: str, path: Path) -> None:
    with atomic_path(path.resolve()) as temporary:
        connection.execute(f"set allowed_paths = [{literal(str(temporary))}]")
        seal(connection, run)
        with duckdb_words():
            try:
                read_only_query(connection, sql, "sql").write_parquet(str(temporary), compression="zstd")
            except duckdb.IOException as error:  # a full disk, a folder that cannot be written
                raise OSError(first_line(error)) from error


def _write_csv(relation: duckdb.DuckDBPyRelation, out: IO[str]) -> None:
    """Values in DuckDB's own text, so that lists, structs and times read as they do in its command line."""
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(relation.columns)
    writer.writerows(relation.project("columns(*)::varchar").iter_rows())


def _write_json(relation: duckdb.DuckDBPyRelation, out: IO[str]) -> None:
    """One array of objects; DuckDB turns each row to JSON, since Python's json lacks its types.

    JSON knows neither NaN nor infinity, which DuckDB writes all the same: they become null.
    """
    objects = relation.set_alias("result").project("to_json(result)::varchar").iter_rows()
    out.write("[" + ",\n ".join(_strict(text) for (text,) in objects) + "]\n")


def _strict(text: str) -> str:
    if "NaN" not in text and "Infinity" not in text:
        return text
    row = json.loads(text, parse_constant=lambda name: None)
    return json.dumps(row, ensure_ascii=False, separators=(",", ":"))
