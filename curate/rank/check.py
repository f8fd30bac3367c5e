"""`curate metrics`: the shipped metrics, and whether a metric of the user's is sound on a run."""

import math
from dataclasses import asdict
from typing import Any

from curate.database.connection import connect_views, fetch, seal
from curate.database.queries import query_text
from curate.errors import QueryError
from curate.rank.metrics.metric import load_metric, not_repeatable, parameter_values, shipped_metrics
from curate.rank.psi import Psi, check_psi
from curate.rank.stage import measure, prepare_inputs, prepare_pairs
from curate.storage.run import Run

TOP = 0.0533
CHANGING = """select distinct function_name from duckdb_functions()
where stability in ('VOLATILE', 'CONSISTENT_WITHIN_QUERY') and function_name <> 'error'"""
"""The functions that may give another value when a query is run again: random(), now(), ..."""


def list_metrics() -> list[dict[str, Any]]:
    """Name, purpose, source and parameters of each shipped metric."""
    return [
        {
            "name": metric.name,
            "purpose": metric.purpose,
            "source": metric.source,
            "parameters": {item.name: asdict(item) for item in metric.parameters.values()},
        }
        for metric in map(load_metric, shipped_metrics())
    ]


def check_metric(run: Run, name_or_path: str, params: tuple[str, ...], psi: Psi) -> dict[str, Any]:
    """Run a metric on all eligible pairs of a run; its nulls, ties, range, and likeness to the shipped metrics.

    A shipped metric that the run lacks a scorer for is left out. Raises: UsageError, QueryError, RunError, as
    `curate rank` would.
    """
    scorers = check_psi(run, psi)
    metric = load_metric(name_or_path)
    others = [load_metric(name) for name in shipped_metrics()]
    others = [other for other in others if other.path != metric.path and other.lacks(scorers) is None]
    metric.check(scorers)
    connection = connect_views(run, rankings=False)
    prepare_pairs(connection, run, scorers, psi)
    prepare_inputs(connection, scorers, [metric, *others])
    seal(connection, run)
    against = []
    for other in others:
        measure(connection, other, scorers, parameter_values(other, ()))
        connection.execute(f"create temp table result_{other.name} as from metric_result")
    measure(connection, metric, scorers, parameter_values(metric, params))
    pairs, ranked, distinct, tied, least, greatest, median = fetch(connection, query_text("rank/metric_summary"))[0]
    if ranked == 0:
        raise QueryError(f"{metric.path}: it gave none of the {pairs:,} pairs a quality")
    for other in others:
        connection.execute(f"create or replace temp view other_result as from result_{other.name}")
        correlation, shared = fetch(connection, query_text("rank/metric_agreement"), {"share": TOP})[0]
        against.append({"metric": other.name, "rank_correlation": finite(correlation), "shared": shared or 0.0})
    changing = [str(name) for (name,) in fetch(connection, CHANGING)]
    return {
        "metric": metric.name,
        "not_repeatable": not_repeatable(metric.text, changing),
        "pairs": pairs,
        "ranked": ranked,
        "nulls": pairs - ranked,
        "distinct": distinct,
        "tied": tied,
        "quality": {"least": least, "greatest": greatest, "median": median},
        "against": against,
    }


def finite(value: float | None) -> float | None:
    """None where a correlation is undefined: no pair in common, or all equal."""
    return None if value is None or math.isnan(value) else value
