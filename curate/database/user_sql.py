"""A user's SQL: one statement that only reads, its errors in DuckDB's words beside where it came from."""

from typing import Any

import duckdb

from curate.errors import QueryError


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
        body = one_select(connection, sql, parameters, where)
        connection.execute(f'create or replace temp table "{table}" as {body}', parameters)
        return {name: kind for name, kind, *_ in connection.execute(f'describe "{table}"').fetchall()}
    except duckdb.Error as error:
        raise QueryError(f"{where}: {error}") from error


def one_select(connection: duckdb.DuckDBPyConnection, sql: str, parameters: dict[str, Any], where: str) -> str:
    """A user's query as part of another statement. Raises: QueryError when it is no one query, or names others."""
    try:
        statement = _one_statement(connection, sql, where, duckdb.StatementType.SELECT)
    except duckdb.Error as error:
        raise QueryError(f"{where}: {error}") from error
    if statement.named_parameters != set(parameters):
        used, declared = (", ".join(sorted(names)) or "none" for names in (statement.named_parameters, parameters))
        raise QueryError(f"{where}: the parameters declared are {declared}; the query uses {used}")
    return _as_subquery(_without_end(statement.query))


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
