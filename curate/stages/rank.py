"""`curate rank`: a metric in SQL over the pairs' scores, a total order, the top selected."""

import math
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import tomli_w

from curate.comments import describe
from curate.database import (
    PSI_NORMS,
    SQL,
    Psi,
    connect_views,
    create_parquet_view,
    create_psi_views,
    fetch,
    fetch_count,
    first_line,
    query_text,
    read_only_query,
)
from curate.errors import QueryError, RunError, UsageError, nearest
from curate.run import Run
from curate.tables import atomic_path, rows_table, write_table, write_text
from schemas import tables
from schemas.reasons import PAIR_REASONS

METRICS = SQL / "metrics"


def rank(run: Run, name: str, metric: str, psi: Psi, top: str) -> dict[str, Any]:
    """Write rankings/<name>.parquet, its .toml, and curation.duckdb; return the counts.

    metric: the name of a shipped metric, or a .sql file that returns pair_id, quality.
    top: a fraction of the ranked pairs such as "0.0533", or a count such as "5000".
    Raises: UsageError, QueryError, RunError.
    """
    share = parse_top(top)
    summary = run.summary()
    if not summary["judged"]:
        raise RunError(f"the pairs of {run.root} carry no judgements to rank; `curate compare` reads them")
    scorers = _checked_scorers(psi, summary["scorers"])
    path, sql = _metric(metric)
    connection = connect_views(run)
    create_psi_views(connection, scorers, psi, "temp table")
    _check_eligible(connection, run)
    _check_raw(connection, psi)
    _materialise_quality(connection, sql, path)
    base = fetch_count(connection, "quality")
    selected = selected_count(share, base)
    ranking = _ranking_table(connection, scorers, selected)
    dropped = _dropped_rows(connection, name)
    report = {
        "name": name,
        "metric": metric,
        "metric_sql": sql,
        "psi": dict(psi.weights),
        "psi_norm": psi.norm,
        "top": top,
        "pairs": summary["pairs"],
        "base_pairs": base,
        "selected_pairs": selected,
        "dropped_pairs": dict(sorted(Counter(str(row["reason"]) for row in dropped).items())),
        "least_selected_quality": ranking["quality"][selected - 1].as_py(),
    }
    if base + len(dropped) != summary["pairs"]:
        raise RunError(
            f"the counts of {run.root} do not add up: {base} ranked + {len(dropped)} dropped != {summary['pairs']}"
        )
    write_table(ranking, run.rankings / f"{name}.parquet", tables.with_margins(tables.RANKING, scorers))
    write_table(rows_table(dropped, tables.DROPPED), run.table("dropped") / f"rank-{name}.parquet", tables.DROPPED)
    write_text(tomli_w.dumps(report, multiline_strings=True), run.rankings / f"{name}.toml")
    write_database(run)
    return report


def parse_psi(text: str, norm: str) -> Psi:
    """`clip,pickscore` (equal weights) or `clip=2,pickscore=1` as weights. Raises UsageError."""
    if norm not in PSI_NORMS:
        raise UsageError(f"--psi-norm {norm}: unknown{nearest(norm, PSI_NORMS)}")
    weights: dict[str, float] = {}
    for term in filter(None, (term.strip() for term in text.split(","))):
        scorer, _, weight = term.partition("=")
        try:
            weights[scorer.strip()] = float(weight) if weight else 1.0
        except ValueError as error:
            raise UsageError(f"--psi {text}: '{weight}' is not a number; write SCORER=WEIGHT") from error
    if not weights or not all(math.isfinite(w) and w > 0 for w in weights.values()):
        raise UsageError(f"--psi '{text}': name scorers with positive weights, such as clip=2,pickscore=1")
    return Psi(weights, norm)


def shipped_metrics() -> dict[str, Path]:
    """Name -> file of each metric in curate/sql/metrics."""
    return {path.stem: path for path in sorted(METRICS.glob("*.sql"))}


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


def open_views(run: Run, database: str = ":memory:") -> duckdb.DuckDBPyConnection:
    """Every view of the run: tables, rankings, and `pair_scores` and `ranking` of the ranking written last."""
    summary = run.summary()
    connection = connect_views(run, database)
    latest = latest_ranking(run)
    if latest is not None:
        create_psi_views(connection, summary["scorers"], Psi(latest["psi"], latest["psi_norm"]))
        create_parquet_view(connection, "ranking", (run.rankings / f"{latest['name']}.parquet").resolve())
    describe(connection)
    return connection


def write_database(run: Run) -> None:
    """curation.duckdb: the same views in a file, for the DuckDB command line and notebooks."""
    with atomic_path(run.database) as temporary:
        open_views(run, str(temporary)).close()


def _checked_scorers(psi: Psi, scorers: list[str]) -> list[str]:
    for name in psi.weights:
        if name not in scorers:
            raise UsageError(
                f"--psi: the run has no scorer '{name}'{nearest(name, scorers)}; "
                "`curate embed --scorers` adds it, in a new run"
            )
    return scorers


def _metric(metric: str) -> tuple[Path, str]:
    shipped = shipped_metrics()
    path = Path(metric) if metric.endswith(".sql") else shipped.get(metric)
    if path is None:
        raise UsageError(f"--metric: no metric '{metric}'{nearest(metric, shipped)}; a file of your own ends in .sql")
    try:
        return path, path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--metric: {path} cannot be read: {error.strerror}") from error


def _check_eligible(connection: duckdb.DuckDBPyConnection, run: Run) -> None:
    if fetch_count(connection, "eligible") == 0:
        raise RunError(f"no pair of {run.root} can be ranked: each is a tie or lost an image; see the table `dropped`")


def _check_raw(connection: duckdb.DuckDBPyConnection, psi: Psi) -> None:
    """psi without normalisation is a score in [0, 1] only if the scores are."""
    if psi.norm != "raw":
        return
    for scorer, least, greatest in fetch(connection, query_text("score_ranges", scorer=sorted(psi.weights))):
        if least >= 0 and greatest <= 1:
            continue
        raise UsageError(
            f"--psi-norm raw: {scorer} runs from {least:.4g} to {greatest:.4g}, outside [0, 1]; "
            "use --psi-norm percentile or minmax"
        )


def _materialise_quality(connection: duckdb.DuckDBPyConnection, sql: str, path: Path) -> None:
    """The metric's result as the table `quality`, checked. Raises QueryError naming the metric's file."""
    relation = read_only_query(connection, sql, str(path))
    if sorted(relation.columns) != ["pair_id", "quality"]:
        raise QueryError(f"{path}: a metric returns the columns pair_id, quality; got {', '.join(relation.columns)}")
    try:
        # Copied whole first: a metric that reads `psi` or windows over all pairs is then computed once.
        relation.select("pair_id, quality::double as quality").to_table("metric_result")
    except duckdb.Error as error:
        raise QueryError(f"{path}: {first_line(error)}") from error
    for pair_id, fault in fetch(connection, query_text("metric_faults")):
        raise QueryError(f"{path}: it returned pair {pair_id!r} {fault}")
    connection.execute("create table quality as select pair_id, quality from metric_result where quality is not null")
    if fetch_count(connection, "quality") == 0:
        raise QueryError(f"{path}: it returned no pair with a quality")


def parse_top(top: str) -> int | float:
    """A count (int) from digits alone, or a fraction in (0, 1] (float). Raises UsageError for anything else."""
    try:
        share: int | float = int(top) if top.isdecimal() else float(top)
    except ValueError:
        share = 0
    if share <= 0 or (isinstance(share, float) and not share <= 1.0):
        raise UsageError(
            f"--top {top}: give a fraction above 0 and at most 1.0, such as 0.0533, or a whole number of pairs"
        )
    return share


def selected_count(share: int | float, base: int) -> int:
    """How many of `base` pairs a share means; fractions are rounded half up, and select one pair at least.

    Raises: UsageError for a count above `base`.
    """
    if isinstance(share, float):
        return max(1, math.floor(share * base + 0.5))
    if share > base:
        raise UsageError(f"--top {share}: only {base:,} pairs are ranked; give at most that, or 1.0 for all")
    return share


def _ranking_table(connection: duckdb.DuckDBPyConnection, scorers: list[str], selected: int) -> pa.Table:
    query = query_text("ranking", scorer=scorers)
    return connection.sql(query, params={"selected_pairs": selected}).to_arrow_table()


def _dropped_rows(connection: duckdb.DuckDBPyConnection, name: str) -> list[dict[str, object]]:
    """Pairs of the run that this ranking leaves out, each with its reason."""
    found = fetch(connection, query_text("ineligible"))
    unranked = "select pair_id, 'not_ranked' from eligible anti join quality using (pair_id) order by pair_id"
    found += fetch(connection, unranked)
    return [
        {
            "stage": f"rank {name}",
            "pair_id": pair_id,
            "image_uid": None,
            "reason": reason,
            "detail": PAIR_REASONS[reason],
        }
        for pair_id, reason in found
    ]
