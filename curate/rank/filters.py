"""Filters before ranking: each says what must hold of a pair, and pairs of which it does not are set aside."""

import math
from dataclasses import dataclass, field
from typing import Any

import duckdb

from curate.database.connection import fetch, literal
from curate.database.user_sql import materialise
from curate.errors import QueryError, UsageError, nearest
from curate.rank.metrics.metric import NSFW, flags_nsfw

WORDS = "nsfw_words"  # the bundled scorer that reads the prompt


@dataclass(frozen=True)
class Filters:
    """What a pair must meet to be ranked. None, or empty: not asked.

    where: a condition in SQL over `pair_facts`. min_scores: least score of the preferred image, by scorer.
    min_annotator_agreement: least share of an annotator's judgements that the calibrated score confirms.
    max_nsfw: greatest value of each NSFW scorer, of either image; a flag of the prompt is the same for both.
    """

    where: str | None = None
    split: str | None = None
    min_scores: dict[str, float] = field(default_factory=dict)
    min_annotator_agreement: float | None = None
    max_nsfw: float | None = None

    def check(self, scorers: list[str]) -> None:
        """Raises UsageError for a scorer that the run lacks, a bound that is no number, or a share outside [0, 1]."""
        for option, value in [("min-score", value) for value in self.min_scores.values()] + [
            ("max-nsfw", self.max_nsfw)
        ]:
            if value is not None and not math.isfinite(value):
                raise UsageError(f"--{option}: {value} is not a finite number")
        for scorer in self.min_scores:
            if scorer not in scorers:
                raise UsageError(f"--min-score: the run has no scorer '{scorer}'{nearest(scorer, scorers)}")
        if self.max_nsfw is not None and not self.nsfw_scorers(scorers):
            raise UsageError(
                f"--max-nsfw: the run has no NSFW scorer; it has {', '.join(scorers)}. Embed into another --run with "
                f"`curate embed --scorers {','.join([*scorers, NSFW, WORDS])}`, or one of the two"
            )
        share = self.min_annotator_agreement
        if share is not None and not 0 <= share <= 1:
            raise UsageError(f"--min-annotator-agreement {share}: give a share from 0 to 1, such as 0.55")

    def stated(self) -> dict[str, Any]:
        """What was asked, for the ranking's record."""
        return {key: value for key, value in vars(self).items() if value not in (None, {})}

    def nsfw_scorers(self, scorers: list[str]) -> list[str]:
        """Those of the run's scorers that --max-nsfw goes by; none when it is not asked."""
        return [] if self.max_nsfw is None else [name for name in scorers if flags_nsfw(name)]

    def conditions(self, scorers: list[str]) -> dict[str, str]:
        """Reason -> what must hold of a row of `pair_facts`; the user's own is not among them."""
        found: dict[str, str] = {}
        if self.split is not None:
            found["other_split"] = f"split = {literal(self.split)}"
        if self.min_scores:
            found["low_score"] = " and ".join(
                f"{name}_preferred >= {least!r}" for name, least in self.min_scores.items()
            )
        if self.max_nsfw is not None:
            found["nsfw"] = " and ".join(
                f"{name}_{side} <= {self.max_nsfw!r}"
                for name in self.nsfw_scorers(scorers)
                for side in ("preferred", "rejected")
            )
        if self.min_annotator_agreement is not None:
            keep = f"select annotator_id from annotators where agreement >= {self.min_annotator_agreement!r}"
            found["annotator_at_chance"] = f"annotator_id is null or annotator_id in ({keep})"
        return found


def set_aside(
    connection: duckdb.DuckDBPyConnection, filters: Filters, scorers: list[str], led: str | None = None
) -> None:
    """The table `left_out` (pair_id, reason): each pair that some filter leaves out, with the first reason.

    led: SQL that is above 0 where a rule takes the preferred side, where pairs are judged by one.
    Needs the views `pair_facts` and, for annotators, `annotators`. What is unknown of a pair does not hold.
    Raises: QueryError for a --where that fails or is not a condition.
    """
    conditions = ({} if led is None else {"undecided": f"{led} > 0"}) | filters.conditions(scorers)
    source = "pair_facts"
    if filters.where is not None:
        evaluate_where(connection, filters.where)
        conditions["where"], source = "kept", "pair_facts inner join where_result using (pair_id)"
    if not conditions:
        connection.execute("create temp table left_out (pair_id varchar, reason varchar)")
        return
    cases = " ".join(f"when not coalesce({held}, false) then {literal(reason)}" for reason, held in conditions.items())
    query = f"select pair_id, case {cases} end as reason from {source}"
    connection.execute(f"create temp table left_out as select * from ({query}) where reason is not null")


def evaluate_where(
    connection: duckdb.DuckDBPyConnection, condition: str, source: str = "pair_facts", counted: str = "eligible"
) -> None:
    """The user's condition on rows of `source` as the table `where_result` (pair_id, kept).

    counted: what has as many rows, and is sooner counted. Raises: QueryError when it fails or is not a condition.
    """
    if not condition.strip():
        raise QueryError('--where: it is empty; give a condition over pair_facts, such as "clip_margin > 0"')
    query = f"select pair_id, (\n{condition}\n)::boolean as kept from {source}"
    columns = materialise(connection, "where_result", query, {}, "--where")
    if list(columns) != ["pair_id", "kept"]:
        raise QueryError(f'--where {condition}: give one condition over pair_facts, such as "clip_margin > 0"')
    rows, pairs, eligible = fetch(
        connection,
        f"select count(*), count(distinct pair_id), (select count(*) from {counted}) from where_result",
    )[0]
    if not rows == pairs == eligible:
        raise QueryError(f"--where {condition}: it must hold or not, once for each pair; it gave {rows} answers")
