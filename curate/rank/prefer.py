"""Whose preference a ranking goes by: the data set's own, a human's; or a rule's, over the pictures' scores."""

from typing import Any

import duckdb

from curate.database.connection import fetch
from curate.database.queries import query_text
from curate.errors import UsageError, nearest
from curate.rank.filters import Filters
from curate.rank.metrics.metric import Metric, judging, mentions

HUMAN = "human"
RULES = ("psi", "vote", "consensus")


def check_prefer(prefer: str, scorers: list[str]) -> None:
    """Raises UsageError for a preference that is neither the human's, a rule's, nor a scorer's of the run."""
    known = (HUMAN, *RULES, *judging(scorers))
    if prefer not in known:
        raise UsageError(f"--prefer: there is no rule and no scorer '{prefer}'{nearest(prefer, known)}")


def lead(rule: str, scorers: list[str]) -> str | None:
    """SQL over `pair_scores`: above 0 where the rule prefers the preferred side, below 0 where the other.

    Swapping the sides negates it. 0 or null: the rule takes neither. None for the human, who needs no rule.
    """
    if rule == HUMAN:
        return None
    if rule == "psi":
        return "psi_preferred - psi_rejected"
    signs = [f"coalesce(sign({name}_margin), 0)" for name in judging(scorers)]
    if rule == "vote":
        return f"({' + '.join(signs)})"
    if rule == "consensus":
        return f"trunc(({' + '.join(signs)}) / {len(signs)})"
    return f"{rule}_margin"


def ruled_by(rule: str, scorers: list[str], weighed: dict[str, float]) -> list[str]:
    """The scorers that have a say in a rule; none in the human's preference."""
    voting = judging(scorers)
    return {HUMAN: [], "psi": list(weighed), "vote": voting, "consensus": voting}.get(rule, [rule])


def check_asks_nobody(prefer: str, metric: Metric, filters: Filters) -> None:
    """Raises UsageError where a rule's preferences would be taken for people's."""
    asked = {f"--metric {metric.name}": metric.text, "--where": filters.where or ""}
    asked["--min-annotator-agreement"] = "annotators" if filters.min_annotator_agreement is not None else ""
    for option, query in asked.items() if prefer != HUMAN else ():
        if any(mentions(query, view) for view in ("calibrated", "annotators", "fronts")):
            raise UsageError(
                f"{option} asks how likely people are right, and --prefer {prefer} asks nobody; leave one of them out"
            )


def preferred_pairs(connection: duckdb.DuckDBPyConnection, prefer: str) -> dict[str, Any]:
    """Who prefers; of the ranked pairs, how many a human judged, and how many of these a rule turned."""
    if prefer == HUMAN:
        return {"prefer": prefer}
    judged, turned = fetch(connection, query_text("rank/turned"))[0]
    return {"prefer": prefer, "judged_pairs": judged, "turned_pairs": turned}


def preferred_by(prefer: str) -> str:
    """As people read it: `the human`, or `the rule vote`."""
    return "the human" if prefer == HUMAN else f"the rule {prefer}"
