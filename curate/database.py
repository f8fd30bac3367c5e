"""DuckDB over a run's tables: views by name, queries from curate/sql, errors that say what to do."""

import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import duckdb

from curate.errors import QueryError, RunError
from curate.run import Run

SQL = Path(str(files("curate"))) / "sql"
EMBEDDED = ("pairs", "images", "prompts", "scores", "dropped")
PSI_NORMS = ("percentile", "minmax", "raw")

_EACH = re.compile(r"^ *-- each (\w+)\n(.*?)^ *-- end\n", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Psi:
    """Which scores make psi, by weight, and how each is brought to [0, 1]."""

    weights: dict[str, float]
    norm: str


def query_text(name: str, **each: list[str]) -> str:
    """The text of curate/sql/<name>.sql with its `each` blocks repeated: each={"scorer": [...]}."""
    text = (SQL / f"{name}.sql").read_text(encoding="utf-8")
    return _EACH.sub(lambda block: "".join(block[2].replace(f"{{{block[1]}}}", item) for item in each[block[1]]), text)


def connect_views(run: Run, database: str = ":memory:") -> duckdb.DuckDBPyConnection:
    """A connection with one view per table of the run, and one per ranking. Raises RunError."""
    connection = duckdb.connect(database)
    for name in EMBEDDED:
        pattern = run.pairs if name == "pairs" else run.table(name) / "*.parquet"
        create_parquet_view(connection, name, pattern.resolve())
    for path in sorted(run.rankings.glob("*.parquet")):
        create_parquet_view(connection, f"ranking_{path.stem}", path.resolve())
    return connection


def create_psi_views(connection: duckdb.DuckDBPyConnection, scorers: list[str], psi: Psi, kind: str = "view") -> None:
    """`eligible`, `used_scores`, `psi_weights`, `normalised`, `psi` and `pair_scores` over the run's tables.

    kind: "view" computes them when they are asked for; "temp table" now and once, for work that reads them often.
    """
    weighed = sorted(psi.weights)
    columns = ", ".join(f"{psi.weights[name]!r}::double as {name}_weight" for name in weighed)
    queries = {
        "eligible": query_text("eligible"),
        "used_scores": query_text("used_scores", scorer=scorers),
        "psi_weights": f"select {columns}",
        "normalised": query_text(f"normalised_{psi.norm}", scorer=weighed),
        "psi": query_text("psi", scorer=weighed),
        "pair_scores": query_text("pair_scores", scorer=scorers),
    }
    for name, query in queries.items():
        connection.execute(f"create {kind} {name} as\n{query}")


def create_parquet_view(connection: duckdb.DuckDBPyConnection, name: str, pattern: Path) -> None:
    """A view over one Parquet file or a glob of them. Raises RunError when it cannot be read."""
    try:
        create_view(connection, name, f"select * from read_parquet({literal(str(pattern))})")
    except duckdb.Error as error:
        raise RunError(f"{pattern} cannot be read ({first_line(error)}); run `curate embed` again") from error


def create_view(connection: duckdb.DuckDBPyConnection, name: str, query: str) -> None:
    """`create or replace view`, with the query's own comments left in."""
    connection.execute(f'create or replace view "{name}" as\n{query}')


def read_only_query(connection: duckdb.DuckDBPyConnection, sql: str, where: str) -> duckdb.DuckDBPyRelation:
    """Run one statement that only reads. Raises QueryError, with DuckDB's own words, naming `where`."""
    try:
        statements = duckdb.extract_statements(sql)
        if len(statements) != 1:
            raise QueryError(f"{where}: one SQL statement is needed, got {len(statements)}")
        if statements[0].type not in (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN) or _executes(sql):
            raise QueryError(
                f"{where}: only queries are allowed here, got {statements[0].type.name}; the run is read-only"
            )
        return connection.sql(sql)
    except duckdb.Error as error:
        raise QueryError(f"{where}: {error}") from error


def fetch(connection: duckdb.DuckDBPyConnection, query: str) -> list[tuple[Any, ...]]:
    """All rows of a query of ours. DuckDB 2 keeps a connection busy until the last row is fetched."""
    return connection.execute(query).fetchall()


def fetch_count(connection: duckdb.DuckDBPyConnection, relation: str) -> int:
    """Rows of a view or table."""
    return int(fetch(connection, f'select count(*) from "{relation}"')[0][0])


def literal(text: str) -> str:
    """A SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def first_line(error: Exception) -> str:
    """The first line of DuckDB's message; the rest is a picture of the query."""
    return str(error).split("\n", 1)[0]


def _executes(sql: str) -> bool:
    """`explain analyze copy ...` would run the copy."""
    return re.match(r"\s*explain\s+analy[sz]e\b", sql, re.IGNORECASE) is not None
