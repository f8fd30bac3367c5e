"""Comments on the views of a run's database and on their columns, in the words of schemas/descriptions.py."""

import duckdb

from curate.database.connection import literal
from schemas.descriptions import describe_column, describe_view


def describe(connection: duckdb.DuckDBPyConnection) -> None:
    """`comment on` every view and column that there is and that has a description."""
    columns = connection.execute(
        "select view_name, column_name from duckdb_views() inner join duckdb_columns() on view_name = table_name "
        "where not duckdb_views.internal and not duckdb_views.temporary order by view_name, column_index"
    ).fetchall()
    statements = [
        _comment(f'view "{view}"', describe_view(view)) for view in dict.fromkeys(view for view, _ in columns)
    ]
    statements += [_comment(f'column "{view}"."{column}"', describe_column(view, column)) for view, column in columns]
    connection.execute("".join(statements)).fetchall()


def _comment(of: str, words: str | None) -> str:
    return "" if words is None else f"comment on {of} is {literal(words)};\n"
