"""DuckDB over a run's tables: views by name, queries from curate/sql, errors that say what to do."""

import glob
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from curate.database.interrupts import stops_at_ctrl_c
from curate.errors import QueryError, RunError
from curate.storage.run import Run
from curate.storage.tables import atomic_path

CURATE = Path(str(files("curate")))
EMBEDDED = ("pairs", "images", "prompts", "scores", "dropped")
PSI_NORMS = ("percentile", "minmax", "raw")

SHARE_OF_JOINS = 0.25
"""Of the memory, what the joins of both sides may take together."""
ROW_BYTES = 80
"""About what DuckDB holds of a row of a join's table beside its values: numbers, hashes, its place, its neighbour."""
MOST_MARKED = 10**9
"""Scores of which used_scores_marked.sql can mark those that are used."""

# No view of ours needs an extension or a variable of the calling Python.
CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "python_enable_replacements": False,
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
}
_EACH = re.compile(r"^[ \t]*-- each (\w+)[ \t]*\n(.*?)^[ \t]*-- end[ \t]*(?:\n|\Z)", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Psi:
    """Which scores make psi, by weight, and how each is brought to [0, 1]."""

    weights: dict[str, float]
    norm: str


def query_text(name: str, **each: list[str]) -> str:
    """The text of a wing's query with its `each` blocks repeated: each={"scorer": [...]}.

    name: "rank/psi" is curate/rank/sql/psi.sql.
    """
    wing, query = name.split("/")
    return fill_blocks((CURATE / wing / "sql" / f"{query}.sql").read_text(encoding="utf-8"), **each)


def fill_blocks(text: str, **each: list[str]) -> str:
    """Repeat the lines between `-- each WORD` and `-- end` for every item of each[WORD], {WORD} standing for it.

    A WORD that `each` lacks is a comment like another.
    """

    def repeated(block: re.Match[str]) -> str:
        word, lines = block[1], block[2]
        return "".join(lines.replace(f"{{{word}}}", item) for item in each[word]) if word in each else block[0]

    return _EACH.sub(repeated, text)


def connect_views(run: Run, database: str = ":memory:", *, rankings: bool = True) -> duckdb.DuckDBPyConnection:
    """A connection with one view per table of the run and, with `rankings`, one per ranking. Raises RunError."""
    connection = stops_at_ctrl_c(duckdb.connect(database, config=CONFIG))
    connection.execute(f"set temp_directory = {literal(str((run.root / '.spill').resolve()))}")
    with at_once(connection):
        for name in EMBEDDED:
            pattern = run.pairs if name == "pairs" else run.table(name) / "*.parquet"
            create_parquet_view(connection, name, pattern.resolve(), _array_columns(pattern))
        for path in sorted(run.rankings.glob("*.parquet")) if rankings else ():
            create_parquet_view(connection, f"ranking_{path.stem}", path.resolve())
    return connection


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


def create_psi_views(connection: duckdb.DuckDBPyConnection, scorers: list[str], psi: Psi) -> None:
    """What is known of pairs, from `scored` to `pair_scores` and `pair_facts`, computed when it is asked for."""
    numbered = query_text(
        "database/scored", scorer=scorers, number=["row_number() over ()"], id=["prompt_id", "image_uid"]
    )
    for name, query in ({"scored": numbered} | _psi_queries(scorers, psi)).items():
        create_view(connection, name, query)


def create_psi_tables(
    connection: duckdb.DuckDBPyConnection, scorers: list[str], psi: Psi, kind: str = "temp table"
) -> None:
    """The same where it is read often: what takes long is computed now and once.

    kind: "temp table", or "table", which the connection's cursors see, too.
    """
    # A table has row numbers, which several threads can write, and is kept small: the ids are left in `scores`.
    rows = query_text("database/scored", scorer=scorers, number=[], id=[])
    connection.execute(f"create or replace {kind} scored_rows as\n{rows}")
    create_view(connection, "scored", "select rowid as score_id, * from scored_rows")
    count = fetch_count(connection, "scored")
    queries = _psi_queries(scorers, psi)
    if 0 < count <= MOST_MARKED:
        queries["used_scores"] = query_text(
            "rank/used_scores_marked", scorer=sorted(psi.weights), last=[str(count - 1)]
        )
    one_by_one = not _both_sides_fit(connection, count, len(scorers))
    # No table of pair_scores: finding psi by number twice costs less than writing every pair's values down once.
    tables = {"eligible", "psi"} | ({"sided"} if one_by_one else set())
    for name, query in queries.items():
        connection.execute(f"create or replace {kind if name in tables else 'view'} {name} as\n{query}")
        if name == "eligible" and one_by_one:
            connection.execute("drop table sided")  # its rows are in `eligible` now


def _psi_queries(scorers: list[str], psi: Psi) -> dict[str, str]:
    """What follows from `scored`, in this order."""
    weighed = sorted(psi.weights)
    columns = ", ".join(f"{psi.weights[name]!r}::double as {name}_weight" for name in weighed)
    return {
        "usable": query_text("rank/usable", scorer=scorers, weighed=weighed),
        "sided": query_text("rank/sided", scorer=scorers),
        "eligible": query_text("rank/eligible", scorer=scorers),
        "used_scores": query_text("rank/used_scores", scorer=weighed),
        "psi_weights": f"select {columns}",
        "normalised": query_text(f"rank/normalised_{psi.norm}", scorer=weighed),
        "psi": query_text("rank/psi", scorer=weighed),
        "pair_scores": query_text("rank/pair_scores", scorer=scorers),
        "pair_facts": query_text("rank/pair_facts"),
    }


def _both_sides_fit(connection: duckdb.DuckDBPyConnection, count: int, scorers: int) -> bool:
    """Whether two joins' tables of scores take a small part of the memory: then one pass finds both sides of a pair.

    Otherwise one side is found after the other, and the pairs' texts are written twice.
    """
    if fetch(connection, "select current_setting('memory_limit')")[0][0].endswith("PiB"):
        return True  # no limit: DuckDB writes it so, and cannot read it
    limit = fetch(connection, "select parse_formatted_bytes(current_setting('memory_limit'))")[0][0]
    return bool(2 * count * (ROW_BYTES + 4 * scorers) <= SHARE_OF_JOINS * limit)


def create_calibration_views(connection: duckdb.DuckDBPyConnection, weights: dict[str, float]) -> None:
    """`calibration_weights`, `calibrated` and `annotators`, by weights of all the run's scorers."""
    columns = ", ".join(f"{weight!r}::double as {scorer}_weight" for scorer, weight in weights.items())
    create_view(connection, "calibration_weights", f"select {columns}")
    create_view(connection, "calibrated", query_text("rank/calibrated", scorer=list(weights)))
    create_view(connection, "annotators", query_text("rank/annotators"))


def create_parquet_view(
    connection: duckdb.DuckDBPyConnection, name: str, pattern: Path, arrays: dict[str, int] | None = None
) -> None:
    """A view over one Parquet file or a glob of them. Raises RunError when it cannot be read.

    arrays: column -> length of the float arrays that DuckDB reads as lists, since Parquet keeps no length.
    """
    casts = ", ".join(f'"{column}"::float[{length}] as "{column}"' for column, length in (arrays or {}).items())
    columns = f"* replace ({casts})" if casts else "*"
    try:
        # Only the name is a pattern, and a folder may have brackets.
        found = literal(str(Path(glob.escape(str(pattern.parent))) / pattern.name))
        create_view(connection, name, f"select {columns} from read_parquet({found})")
    except duckdb.Error as error:
        again = f"curate rank --name {pattern.stem}" if name.startswith("ranking") else "curate embed"
        raise RunError(f"{pattern} cannot be read ({first_line(error)}); run `{again}` again") from error


def _array_columns(pattern: Path) -> dict[str, int]:
    """Column -> length of the fixed-size lists of a table, by its first file; the other parts are alike."""
    first = next(iter(sorted(pattern.parent.glob(pattern.name))), None)
    try:
        schema = pa.schema([]) if first is None else pq.read_schema(first)
    except (pa.ArrowInvalid, OSError):
        return {}  # the view over it says what is wrong with the file
    return {field.name: field.type.list_size for field in schema if pa.types.is_fixed_size_list(field.type)}


def create_view(connection: duckdb.DuckDBPyConnection, name: str, query: str) -> None:
    """`create or replace view`, with the query's own comments left in."""
    connection.execute(f'create or replace view "{name}" as\n{query}')


def read_only_query(connection: duckdb.DuckDBPyConnection, sql: str, where: str) -> duckdb.DuckDBPyRelation:
    """Run one statement that only reads. Raises QueryError, with DuckDB's own words, naming `where`."""
    try:
        statement = _one_statement(connection, sql, where, duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN)
        text = _without_end(statement.query)
        if statement.type == duckdb.StatementType.SELECT:
            return connection.sql(_as_subquery(text))
        explain, query = _explained(text)
        return connection.sql(explain + _as_subquery(query))
    except duckdb.Error as error:
        raise QueryError(f"{where}: {error}") from error


def materialise(
    connection: duckdb.DuckDBPyConnection, table: str, sql: str, parameters: dict[str, Any], where: str
) -> dict[str, str]:
    """Keep the result of a user's query as a temporary table; its columns' types by name.

    parameters: exactly those that the query names. Raises QueryError, naming `where`.
    """
    try:
        statement = _one_statement(connection, sql, where, duckdb.StatementType.SELECT)
        if statement.named_parameters != set(parameters):
            used, declared = (", ".join(sorted(names)) or "none" for names in (statement.named_parameters, parameters))
            raise QueryError(f"{where}: the parameters declared are {declared}; the query uses {used}")
        body = _as_subquery(_without_end(statement.query))
        connection.execute(f'create or replace temp table "{table}" as {body}', parameters)
        return {name: kind for name, kind, *_ in connection.execute(f'describe "{table}"').fetchall()}
    except duckdb.Error as error:
        raise QueryError(f"{where}: {error}") from error


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


def literal(text: str) -> str:
    """A SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def first_line(error: Exception) -> str:
    """The first line of DuckDB's message; the rest is a picture of the query."""
    return str(error).split("\n", 1)[0]


def _one_statement(
    connection: duckdb.DuckDBPyConnection, sql: str, where: str, *allowed: duckdb.StatementType
) -> duckdb.Statement:
    statements = connection.extract_statements(sql)  # that of `duckdb` opens a database first, in 30 ms
    if len(statements) != 1:
        raise QueryError(f"{where}: one SQL statement is needed, got {len(statements)}")
    found = statements[0].type
    if found not in allowed or (found == duckdb.StatementType.EXPLAIN and not _explained(sql)[1]):
        raise QueryError(f"{where}: only queries are allowed here, got {found.name}; the run is read-only")
    return statements[0]


def ends(sql: str) -> bool:
    """Whether the text ends with a ; that no quote or comment holds; only comments may follow it."""
    words = _words(sql)
    return bool(words) and sql.encode()[words[-1] :].startswith(b";")


def _without_end(statement: str) -> str:
    """The statement without its ; and the comments after it, so that it can be part of another."""
    while ends(statement):
        statement = statement.encode()[: _words(statement)[-1]].decode()
    return statement


def _words(sql: str) -> list[int]:
    """Where each word or sign of the text starts, in bytes of UTF-8 as DuckDB counts; comments left out."""
    return [start for start, kind in duckdb.tokenize(sql) if kind != duckdb.token_type.comment]


def _as_subquery(query: str) -> str:
    """The same rows in the same order. A `with` at top level may hold a copy, insert or update; here it may not."""
    return f"from (\n{query}\n)"


def _explained(sql: str) -> tuple[str, str]:
    """The words of an `explain` and the query that it explains; empty where that is no query: `explain copy ...`.

    Its options are passed over word by word: what follows them is the first rest that is a statement by itself.
    """
    text = sql.encode()
    for start in _words(sql)[1:]:
        try:
            found = duckdb.extract_statements(text[start:].decode())[0].type
        except duckdb.ParserException:
            continue
        return text[:start].decode(), text[start:].decode() if found == duckdb.StatementType.SELECT else ""
    return sql, ""
