"""What every connection to DuckDB has set."""

from curate.database.connection import connect


def test_no_progress_is_drawn() -> None:
    """After two seconds DuckDB would draw it on stdout, into a report, or into the answer of the process for rows."""
    with connect() as connection:
        assert connection.execute("select current_setting('enable_progress_bar')").fetchall() == [(False,)]
