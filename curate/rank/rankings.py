"""What a run's rankings were made by, and every view of a run under one of them."""

import tomllib
from contextlib import closing
from typing import Any

import duckdb

from curate.database.comments import describe
from curate.database.connection import at_once, connect_views, create_parquet_view, first_line
from curate.errors import RunError
from curate.rank.prefer import HUMAN
from curate.rank.psi import Psi, create_calibration_views, create_psi_views
from curate.storage.run import Run
from curate.storage.tables import atomic_path


def ranking_settings(run: Run, name: str) -> dict[str, Any]:
    """What rankings/<name>.toml states. Raises RunError naming the rankings there are."""
    path = run.rankings / f"{name}.toml"
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        there = sorted(item.stem for item in run.rankings.glob("*.toml"))
        raise RunError(
            f"no ranking '{name}' in {run.root}; there {'are ' + ', '.join(there) if there else 'is none'}; "
            "run `curate rank` first"
        ) from error


def latest_ranking(run: Run) -> dict[str, Any] | None:
    """The settings of the ranking written last, or None."""
    files = sorted(run.rankings.glob("*.toml"), key=lambda path: (path.stat().st_mtime_ns, path.name))
    return ranking_settings(run, files[-1].stem) if files else None


def open_views(run: Run, database: str = ":memory:", ranking: str | None = None) -> duckdb.DuckDBPyConnection:
    """Every view of the run: tables, rankings, and `pair_scores` and `ranking` of one ranking.

    ranking: its name; None: the one written last, if there is any. Raises RunError.
    """
    summary = run.summary()
    connection = connect_views(run, database)
    stated = latest_ranking(run) if ranking is None else ranking_settings(run, ranking)
    with at_once(connection):
        if stated is not None:
            create_psi_views(
                connection, summary["scorers"], Psi(stated["psi"], stated["psi_norm"]), stated.get("prefer", HUMAN)
            )
            create_parquet_view(connection, "ranking", (run.rankings / f"{stated['name']}.parquet").resolve())
            if "calibration" in stated:
                create_calibration_views(connection, stated["calibration"]["weights"])
        describe(connection)
    return connection


def write_database(run: Run) -> None:
    """curation.duckdb: the same views in a file, for the DuckDB command line and notebooks. Raises: WriteError."""
    with atomic_path(run.database) as temporary:
        log = temporary.with_name(f"{temporary.name}.wal")
        try:
            connection = open_views(run, str(temporary))
            with closing(connection):
                connection.execute("checkpoint")  # closing does it, too, but says nothing of a full disk
        except (duckdb.IOException, duckdb.TransactionException, duckdb.FatalException) as error:
            raise OSError(first_line(error)) from error
        finally:
            log.unlink(missing_ok=True)
