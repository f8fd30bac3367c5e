"""psi: chosen scores brought to [0, 1], and the views of pairs that metrics, filters and pages read."""

import math
from dataclasses import dataclass, field

import duckdb

from curate.database.connection import create_view, fetch, fetch_count, kept_columns
from curate.database.queries import query_text
from curate.errors import RunError, UsageError, nearest
from curate.models.model_set import DEFAULT_SCORERS
from curate.rank.prefer import HUMAN, check_prefer, lead
from curate.storage.run import Run

PSI_NORMS = ("percentile", "minmax", "raw")
SHARE_OF_JOINS = 0.25
"""Of the memory, what the joins of both sides may take together."""
ROW_BYTES = 80
"""About what DuckDB holds of a row of a join's table beside its values: numbers, hashes, its place, its neighbour."""
MOST_MARKED = 10**9
"""Scores of which used_scores_marked.sql can mark those that are used."""


@dataclass(frozen=True)
class Psi:
    """Which scores make psi, by weight, and how each is brought to [0, 1]."""

    weights: dict[str, float] = field(default_factory=lambda: dict.fromkeys(DEFAULT_SCORERS, 1.0))
    norm: str = "percentile"


def create_psi_views(connection: duckdb.DuckDBPyConnection, scorers: list[str], psi: Psi, prefer: str = HUMAN) -> None:
    """What is known of pairs, from `scored` to `pair_scores` and `pair_facts`, computed when it is asked for.

    prefer: whose preference names the sides, the human's or a rule's.
    """
    numbered = query_text(
        "database/scored", scorer=scorers, number=["row_number() over ()"], id=["prompt_id", "image_uid"]
    )
    for name, query in ({"scored": numbered} | _psi_queries(scorers, psi, kept_columns(connection), prefer)).items():
        create_view(connection, name, query)


def create_psi_tables(
    connection: duckdb.DuckDBPyConnection, scorers: list[str], psi: Psi, kind: str = "temp table", prefer: str = HUMAN
) -> None:
    """The same where it is read often: what takes long is computed now and once.

    kind: "temp table", or "table", which the connection's cursors see, too.
    """
    # A table has row numbers, which several threads can write, and is kept small: the ids are left in `scores`.
    rows = query_text("database/scored", scorer=scorers, number=[], id=[])
    connection.execute(f"create or replace {kind} scored_rows as\n{rows}")
    create_view(connection, "scored", "select rowid as score_id, * from scored_rows")
    count = fetch_count(connection, "scored")
    queries = _psi_queries(scorers, psi, kept_columns(connection), prefer)
    if 0 < count <= MOST_MARKED:
        marked = query_text("rank/used_scores_marked", scorer=sorted(psi.weights), last=[str(count - 1)])
        queries["used_scores"] = marked if prefer == HUMAN else _of_shown(marked)
    one_by_one = not _both_sides_fit(connection, count, len(scorers))
    # No table of pair_scores: finding psi by number twice costs less than writing every pair's values down once.
    tables = {"shown", "eligible", "psi"} | ({"sided"} if one_by_one else set())
    for name, query in queries.items():
        connection.execute(f"create or replace {kind if name in tables else 'view'} {name} as\n{query}")
        if name == ("eligible" if prefer == HUMAN else "shown") and one_by_one:
            connection.execute("drop table sided")  # its rows are in `eligible` now


def _of_shown(query: str) -> str:
    """A query over `eligible` that is to be one over `shown`."""
    return query.replace("from eligible\n", "from shown as eligible\n")


def _psi_queries(scorers: list[str], psi: Psi, kept: list[str], prefer: str) -> dict[str, str]:
    """What follows from `scored`, in this order.

    A rule needs psi before it can name the sides. psi does not depend on them: it is made from the same pairs as
    `shown`, image 0 first. `eligible` are these as the rule turns them.
    """
    weighed = sorted(psi.weights)
    columns = ", ".join(f"{psi.weights[name]!r}::double as {name}_weight" for name in weighed)
    sided, eligible = query_text("rank/sided", scorer=scorers), query_text("rank/eligible", scorer=scorers)
    used, scores = query_text("rank/used_scores", scorer=weighed), query_text("rank/pair_scores", scorer=scorers)
    turned = {}
    if prefer != HUMAN:
        sided, used = sided.replace("case preference when", "case 0 when"), _of_shown(used)
        rule = query_text("rank/by_rule", scorer=scorers, lead=[f"{lead(prefer, scorers)}\n"])
        turned = {"shown_scores": _of_shown(scores), "eligible": rule}
    return {
        "usable": query_text("rank/usable", scorer=scorers, weighed=weighed),
        "sided": sided,
        "shown" if turned else "eligible": eligible,
        "used_scores": used,
        "psi_weights": f"select {columns}",
        "normalised": query_text(f"rank/normalised_{psi.norm}", scorer=weighed),
        "psi": query_text("rank/psi", scorer=weighed),
        **turned,
        "pair_scores": scores,
        "pair_facts": query_text("rank/pair_facts", kept=kept),
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


def parse_psi(text: str, norm: str) -> Psi:
    """`clip,pickscore` (equal weights) or `clip=2,pickscore=1` as weights. Raises UsageError."""
    if norm not in PSI_NORMS:
        raise UsageError(f"--psi-norm {norm}: unknown{nearest(norm, PSI_NORMS)}")
    weights: dict[str, float] = {}
    for term in filter(None, (term.strip() for term in text.split(","))):
        scorer, _, weight = term.partition("=")
        if scorer.strip() in weights:
            raise UsageError(f"--psi {text}: '{scorer.strip()}' is given twice")
        try:
            weights[scorer.strip()] = float(weight) if weight else 1.0
        except ValueError as error:
            raise UsageError(f"--psi {text}: '{weight}' is not a number; write SCORER=WEIGHT") from error
    if not weights or min(weights.values()) <= 0 or not math.isfinite(sum(weights.values())):
        raise UsageError(f"--psi '{text}': name scorers with positive weights, such as clip=2,pickscore=1")
    return Psi(weights, norm)


def check_psi(run: Run, psi: Psi, prefer: str = HUMAN) -> list[str]:
    """The run's scorers. Raises RunError for a run without judgements, UsageError for a scorer that it lacks."""
    summary = run.summary()
    if not summary["judged"] and prefer == HUMAN:
        raise RunError(
            f"the pairs of {run.root} carry no judgements to rank; `curate compare` reads them, "
            "`curate rank --prefer RULE` judges them by a rule"
        )
    scorers: list[str] = summary["scorers"]
    for name in psi.weights:
        if name not in scorers:
            raise UsageError(
                f"--psi: the run has no scorer '{name}'{nearest(name, scorers)}; "
                "`curate embed --scorers` adds it, in a new run"
            )
    check_prefer(prefer, scorers)
    return scorers
