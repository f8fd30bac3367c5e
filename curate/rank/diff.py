"""`curate diff`: how two rankings of a run differ."""

from typing import Any

from curate.database.connection import connect_views, query_rows
from curate.database.queries import query_text
from curate.rank.check import finite
from curate.rank.rankings import ranking_settings
from curate.storage.run import Run


def diff(run: Run, one: str, two: str, moved: int) -> dict[str, Any]:
    """Overlap of the selections, Spearman's rank correlation, and the `moved` pairs whose percentile changed most.

    overlap: pairs that both select / pairs that either selects (Jaccard). Raises: RunError naming the rankings there
    are.
    """
    for name in (one, two):
        ranking_settings(run, name)
    connection = connect_views(run)
    connection.execute(f'create temp view first_ranking as from "ranking_{one}"')
    connection.execute(f'create temp view second_ranking as from "ranking_{two}"')
    counts = query_rows(connection, query_text("rank/ranking_overlap"))[0]
    counts["rank_correlation"] = finite(counts["rank_correlation"])
    either = counts["selected_one"] + counts["selected_two"] - counts["selected_both"]
    return {
        "one": one,
        "two": two,
        **counts,
        "overlap": counts["selected_both"] / max(either, 1),
        "moved": query_rows(connection, query_text("rank/ranking_moved"), limit=moved),
    }
