"""Which ranked pairs are selected: the best, unless limits or diversity pass some of them over."""

from collections import Counter
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np

from curate.database import fetch, query_text
from curate.diversity import choose_diverse, near_duplicate_groups
from curate.errors import RunError, UsageError

READ_AHEAD = 20_000
"""Fewest pairs read from the ranking at once when limits pass some over."""


@dataclass(frozen=True)
class Limits:
    """What a selection may hold at most, and how much it spreads over prompts. None: no limit.

    near_duplicates: prompts whose embeddings' cosine reaches it count as one prompt.
    diversity: weight in [0, 1] of a prompt's distance to the chosen ones, against quality.
    """

    per_prompt: int | None = None
    per_image: int | None = None
    per_annotator: int | None = None
    near_duplicates: float | None = None
    diversity: float | None = None

    def check(self) -> None:
        """Raises UsageError for values that no selection can meet."""
        for name in ("per_prompt", "per_image", "per_annotator"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"--max-{name.replace('_', '-')} {value}: give 1 or more")
        for name, value in (("near-duplicates", self.near_duplicates), ("diversity", self.diversity)):
            if value is not None and not 0 <= value <= 1:
                raise UsageError(f"--{name} {value}: give a number from 0 to 1")

    @property
    def any_cap(self) -> bool:
        """Whether a number of pairs is limited."""
        return any(value is not None for value in (self.per_prompt, self.per_image, self.per_annotator))

    @property
    def needs_embeddings(self) -> bool:
        """Whether prompts are compared."""
        return self.near_duplicates is not None or self.diversity is not None


@dataclass(frozen=True)
class Selection:
    """count pairs with a rank of at most last_rank that are not in passed_over (rank -> reason)."""

    count: int
    last_rank: int
    passed_over: dict[int, str]


@dataclass(frozen=True)
class Prompts:
    """Prompts of the run: ids, their embeddings (n, dimension), float32, L2-normalised, and groups.

    group: prompt_id -> group of near-duplicates; empty where none was asked for.
    """

    ids: list[str]
    embeddings: np.ndarray
    group: dict[str, int]


def select(
    connection: duckdb.DuckDBPyConnection, limits: Limits, prompts: Prompts | None, wanted: int, base: int
) -> Selection:
    """Choose `wanted` of the `base` pairs of the table `ranked`, or as many as the limits leave.

    prompts: needed where the limits compare prompts.
    """
    if not limits.any_cap and limits.diversity is None:
        return Selection(wanted, wanted, {})
    caps = _Caps(limits, prompts.group if prompts else {})
    if prompts is not None and limits.diversity is not None:
        chosen = _choose_diverse(connection, caps, prompts, limits.diversity, wanted, base)
    else:
        chosen = _choose_by_rank(connection, caps, wanted, base)
    last = max(chosen, default=0)
    if limits.diversity is None:
        return Selection(len(chosen), last, {rank: reason for rank, reason in caps.refused.items() if rank < last})
    above = set(range(1, last + 1)).difference(chosen)
    return Selection(len(chosen), last, {rank: caps.refused.get(rank, "diversity") for rank in sorted(above)})


def read_prompts(connection: duckdb.DuckDBPyConnection, near_duplicates: float | None) -> Prompts:
    """All prompts of the run with the first tower's embeddings. Raises RunError when some or all have none."""
    columns = [str(row[0]) for row in fetch(connection, "describe prompts")]
    column = next((name for name in columns if name.endswith("_embedding")), None)
    if column is None:
        raise RunError("the run's prompts have no embeddings to compare; embed again")
    for (prompt_id,) in fetch(connection, query_text("prompts_missing")):
        raise RunError(f"prompt {prompt_id} has no row in the run's prompts; run `curate embed` again")
    query = query_text("prompt_embeddings", embedding=[column])
    table = connection.sql(query).to_arrow_table()
    flat = table[column].combine_chunks().flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    matrix = flat.reshape(table.num_rows, -1) if table.num_rows else np.empty((0, 1), np.float32)
    ids = table["prompt_id"].to_pylist()
    if len(flat) == 0 or not np.isfinite(flat).all():
        raise RunError(f"the column {column} of the run's prompts is empty or not finite; embed again")
    unit = matrix / np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-12)
    groups = [] if near_duplicates is None else near_duplicate_groups(unit, near_duplicates).tolist()
    return Prompts(ids, unit, dict(zip(ids, groups, strict=False)))


class _Caps:
    """Counts what the chosen pairs use up; says no to a pair that would go over, and remembers why."""

    def __init__(self, limits: Limits, groups: dict[str, int]) -> None:
        self.groups = groups
        self.image_columns = ["preferred_uid", "rejected_uid"] if limits.per_image is not None else []
        self.annotator_columns = ["annotator_id"] if limits.per_annotator is not None else []
        prompts, images, annotators = Counter[Any](), Counter[Any](), Counter[Any]()
        # One for each key of a candidate: which limit it falls under, how often it was used, how often it may be.
        self.rules = [("max_per_prompt", prompts, limits.per_prompt)]
        self.rules += [("max_per_image", images, limits.per_image) for _ in self.image_columns]
        self.rules += [("max_per_annotator", annotators, limits.per_annotator) for _ in self.annotator_columns]
        self.refused: dict[int, str] = {}

    def accept(self, rank: int, prompt: str, *others: str | None) -> bool:
        """Take the pair if no limit forbids it. Pairs without an annotator have no annotator's limit.

        others: the uids of both images where images are limited, the annotator's id where annotators are.
        """
        keys = (self.groups.get(prompt, prompt), *others)
        for (reason, used, most), key in zip(self.rules, keys, strict=True):
            if most is not None and key is not None and used[key] >= most:
                self.refused[rank] = reason
                return False
        for (_, used, _), key in zip(self.rules, keys, strict=True):
            used[key] += 1
        return True


def _choose_by_rank(connection: duckdb.DuckDBPyConnection, caps: _Caps, wanted: int, base: int) -> list[int]:
    """The best pair that the limits allow, again and again: ranks."""
    chosen: list[int] = []
    together = max(READ_AHEAD, wanted + wanted // 4)
    with closing(_candidates(connection, caps, together, base)) as candidates:
        for rank, *keys in candidates:
            if caps.accept(rank, *keys):
                chosen.append(rank)
            if len(chosen) == wanted:
                break
    return chosen


def _candidates(
    connection: duckdb.DuckDBPyConnection, caps: _Caps, together: int, base: int
) -> Generator[tuple[Any, ...]]:
    """(rank, prompt_id, what else is limited) in rank order, `together` at a time, read as far as is asked."""
    query = query_text("candidates", image=caps.image_columns, annotator=caps.annotator_columns)
    for first in range(1, base + 1, together):
        connection.execute(query, {"first": first, "last": first + together - 1})
        try:
            while rows := connection.fetchmany(READ_AHEAD):
                yield from rows
        finally:
            connection.abort()  # what was not asked for; the connection is busy until then


def _choose_diverse(
    connection: duckdb.DuckDBPyConnection, caps: _Caps, prompts: Prompts, weight: float, wanted: int, base: int
) -> list[int]:
    """By quality and distance to the prompts chosen so far: ranks."""
    row = {prompt_id: number for number, prompt_id in enumerate(prompts.ids)}
    found = list(_candidates(connection, caps, base, base))
    which = np.fromiter((row[prompt_id] for _, prompt_id, *_ in found), np.int64, len(found))
    positions = choose_diverse(
        which, prompts.embeddings, weight, wanted, lambda position: caps.accept(*found[position])
    )
    return [found[position][0] for position in positions]
