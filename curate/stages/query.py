"""`curate sql`: any query over the run's views, as a table, CSV, JSON or a Parquet file."""

import csv
from pathlib import Path
from typing import IO

import duckdb

from curate.database import first_line, read_only_query
from curate.errors import QueryError
from curate.run import Run
from curate.stages.rank import open_views
from curate.tables import atomic_path

FORMS = ("table", "csv", "json")


def query(run: Run, sql: str, form: str, out: IO[str], parquet: Path | None = None) -> None:
    """Write one query's result to `out` as "table", "csv" or "json", or to the file `parquet`.

    Raises: QueryError with DuckDB's message; RunError; WriteError.
    """
    relation = read_only_query(open_views(run), sql, "sql")
    try:
        if parquet is not None:
            _write_parquet(relation, parquet)
            out.write(f"{parquet}\n")
        elif form == "table":
            out.write(f"{relation}\n")
        elif form == "csv":
            _write_csv(relation, out)
        else:
            _write_json(relation, out)
    except duckdb.Error as error:
        raise QueryError(f"sql: {error}") from error


def _write_parquet(relation: duckdb.DuckDBPyRelation, path: Path) -> None:
    with atomic_path(path) as temporary:
        try:
            relation.write_parquet(str(temporary), compression="zstd")
        except duckdb.IOException as error:  # a full disk, a folder that cannot be written
            raise OSError(first_line(error)) from error


def _write_csv(relation: duckdb.DuckDBPyRelation, out: IO[str]) -> None:
    """Values in DuckDB's own text, so that lists, structs and times read as they do in its command line."""
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(relation.columns)
    writer.writerows(relation.project("columns(*)::varchar").iter_rows())


def _write_json(relation: duckdb.DuckDBPyRelation, out: IO[str]) -> None:
    """One array of objects; DuckDB turns each row to JSON, since Python's json lacks its types."""
    objects = relation.set_alias("result").project("to_json(result)::varchar").iter_rows()
    out.write("[" + ",\n ".join(text for (text,) in objects) + "]\n")
