"""Which ranked pairs are selected: the best, unless limits or diversity pass some of them over."""

from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np

from curate.database.connection import fetch
from curate.database.queries import query_text
from curate.errors import RunError, UsageError
from curate.rank.selection.diversity import choose_diverse, near_duplicate_groups

READ_AHEAD = 20_000
"""Fewest pairs that are looked at when limits pass some over; and rows fetched at once."""


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
    if prompts is not None and limits.diversity is not None:
        return _choose_diverse(connection, limits, prompts, wanted, base)
    return _choose_by_rank(connection, limits, prompts.group if prompts else {}, wanted, base)


def read_prompts(connection: duckdb.DuckDBPyConnection, near_duplicates: float | None) -> Prompts:
    """All prompts of the run with the first tower's embeddings. Raises RunError when some or all have none."""
    columns = [str(row[0]) for row in fetch(connection, "describe prompts")]
    column = next((name for name in columns if name.endswith("_embedding")), None)
    if column is None:
        raise RunError("the run's prompts have no embeddings to compare; embed again")
    for (prompt_id,) in fetch(connection, query_text("rank/prompts_missing")):
        raise RunError(f"prompt {prompt_id} has no row in the run's prompts; run `curate embed` again")
    query = query_text("rank/prompt_embeddings", embedding=[column])
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
    """Counts what the chosen pairs use up; says no to a pair that would go over a limit, and remembers why."""

    def __init__(self, limits: Limits, groups: dict[str, int], candidates: dict[str, list[Any]]) -> None:
        """candidates: by name of a column, its value for each pair in rank order."""
        self.reasons: list[str] = []
        self.room = [2 * len(candidates["prompt_id"])]  # of each key: how many more may use it; the first has no limit
        keys: list[np.ndarray] = []
        for reason, columns, most in _rules(limits):
            number: dict[Any, int] = {None: 0}  # an annotator that nobody knows
            before = len(self.room) - 1
            for column in columns:
                values = candidates[column]
                if groups and column == "prompt_id":
                    values = [groups[prompt] for prompt in values]
                keys.append(np.fromiter((number.setdefault(one, before + len(number)) for one in values), np.int64))
                self.reasons.append(reason)
            self.room += [most] * (len(number) - 1)
        self.keys = np.stack(keys, axis=1) if keys else np.empty((len(candidates["prompt_id"]), 0), np.int64)
        self.refused: dict[int, str] = {}

    def contested(self) -> np.ndarray:
        """Positions of the pairs with a key that more pairs have than may be chosen; a limit never meets the others."""
        uses = np.bincount(self.keys.ravel(), minlength=len(self.room))
        return np.flatnonzero((uses > self.room)[self.keys].any(axis=1))

    def accept(self, position: int) -> bool:
        """Take the pair if no limit forbids it."""
        keys = self.keys[position].tolist()
        for reason, key in zip(self.reasons, keys, strict=True):
            if self.room[key] <= 0:
                self.refused[position + 1] = reason
                return False
        for key in keys:
            self.room[key] -= 1
        return True


def _rules(limits: Limits) -> list[tuple[str, list[str], int]]:
    """What is limited: a reason to say no, the columns whose values are counted together, the most pairs of one."""
    rules = [
        ("max_per_prompt", ["prompt_id"], limits.per_prompt),
        ("max_per_image", ["preferred_uid", "rejected_uid"], limits.per_image),
        ("max_per_annotator", ["annotator_id"], limits.per_annotator),
    ]
    return [(reason, columns, most) for reason, columns, most in rules if most is not None]


def _choose_by_rank(
    connection: duckdb.DuckDBPyConnection, limits: Limits, groups: dict[str, int], wanted: int, base: int
) -> Selection:
    """The best pair that the limits allow, again and again."""
    read = min(base, max(READ_AHEAD, wanted + wanted // 4))
    while True:
        caps = _Caps(limits, groups, _candidates(connection, limits, read))
        for position in caps.contested().tolist():
            caps.accept(position)
        if read - len(caps.refused) >= wanted or read == base:
            break
        read = min(base, 2 * read)
    allowed = np.ones(read, bool)
    allowed[np.array(list(caps.refused), np.int64) - 1] = False
    chosen = np.flatnonzero(allowed)[:wanted] + 1
    last = int(chosen.max(initial=0))
    return Selection(len(chosen), last, {rank: reason for rank, reason in caps.refused.items() if rank < last})


def _candidates(connection: duckdb.DuckDBPyConnection, limits: Limits, read: int) -> dict[str, list[Any]]:
    """prompt_id and what else is limited of the first `read` pairs in rank order, by column."""
    images = ["preferred_uid", "rejected_uid"] if limits.per_image is not None else []
    annotators = ["annotator_id"] if limits.per_annotator is not None else []
    found: dict[str, list[Any]] = {name: [] for name in ["prompt_id", *images, *annotators]}
    connection.execute(query_text("rank/candidates", image=images, annotator=annotators), {"last": read})
    while rows := connection.fetchmany(READ_AHEAD):
        for values, column in zip(found.values(), zip(*rows, strict=True), strict=True):
            values.extend(column)
    return found


def _choose_diverse(
    connection: duckdb.DuckDBPyConnection, limits: Limits, prompts: Prompts, wanted: int, base: int
) -> Selection:
    """By quality and distance to the prompts chosen so far."""
    candidates = _candidates(connection, limits, base)
    caps = _Caps(limits, prompts.group, candidates)
    row = {prompt_id: number for number, prompt_id in enumerate(prompts.ids)}
    which = np.array([row[prompt_id] for prompt_id in candidates["prompt_id"]])
    chosen = choose_diverse(which, prompts.embeddings, limits.diversity or 0.0, wanted, caps.accept)
    last = max(chosen, default=-1) + 1
    above = set(range(last)).difference(chosen)
    reasons = {position + 1: caps.refused.get(position + 1, "diversity") for position in sorted(above)}
    return Selection(len(chosen), last, reasons)
