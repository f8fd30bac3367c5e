"""What a source says of a pair, brought to one label and its strength: marks of any kind, votes, shares."""

import json
from collections.abc import Iterable
from typing import Any

import polars as pl

from curate.errors import SourceError
from curate.sources.manifest import BY_MODEL, LABEL_COLUMNS, LABELS, LabelRules


def with_labels(rows: pl.DataFrame, rules: LabelRules, always_0: bool) -> pl.DataFrame:
    """`label_0` (0, 0.5, 1; null where it cannot be told) and `strength` in place of the source's label columns.

    Where there are votes and a label, votes count where there are any. `stated` says what the source has where no
    label can be made of it.

    always_0: image 0 is the preferred one by the manifest. strength: the preferred side's share of the votes, 0.5 to 1;
    null where the source counts none. Every row is judged by itself, so the order of rows does not matter.
    """
    given = [name for name in LABEL_COLUMNS if name in rows.columns]
    rest = rows.drop(given)
    unknown = pl.lit(None, pl.Float64)
    if always_0:
        return rest.with_columns(label_0=pl.lit(1.0), strength=unknown, stated=pl.lit(None, pl.String))
    if not given:
        return rest.with_columns(label_0=unknown, strength=unknown, stated=pl.lit(None, pl.String))
    made: dict[str, Any] = {"label_0": pl.Series([None], dtype=pl.Float64).new_from_index(0, rows.height)}
    made["strength"] = made["label_0"]
    if not {"label_0", "label_1"}.issuperset(given):
        made = _voted(*_sides(rows, rules), rules)
    if "label_0" in given:  # where nobody voted, the label counts
        made["label_0"] = made["label_0"].zip_with(made["label_0"].is_not_null(), _marked(rows, rules))
    stated = pl.Series(
        [_words(row) for row in rows.select(given).filter(made["label_0"].is_null()).iter_rows(named=True)]
    )
    places = made["label_0"].is_null().arg_true()
    nothing = pl.Series([None], dtype=pl.String).new_from_index(0, rows.height)
    return rest.with_columns(**made, stated=nothing.scatter(places, stated) if len(places) else nothing)


def _words(stated: dict[str, Any]) -> str:
    return ", ".join(f"{name} {'null' if value is None else value}" for name, value in stated.items())


def share_label(share_0: pl.Expr, rules: LabelRules) -> tuple[pl.Expr, pl.Expr]:
    """The label and the strength of a share of votes for image 0."""
    share = pl.max_horizontal(share_0, 1.0 - share_0)
    tie = (share == 0.5) | (share < rules.least_share)
    return pl.when(tie).then(0.5).when(share_0 > 0.5).then(1.0).otherwise(0.0), share


def _marked(rows: pl.DataFrame, rules: LabelRules) -> pl.Series:
    """float64: the label of each row's mark."""
    found = _meaning(rows["label_0"], rules, rows)
    if "label_1" not in rows.columns:
        return found
    agrees = (found + _meaning(rows["label_1"], rules, rows)) == 1.0
    return found.zip_with(agrees.fill_null(False), pl.Series([None], dtype=pl.Float64))


def _meaning(marks: pl.Series, rules: LabelRules, rows: pl.DataFrame) -> pl.Series:
    if rules.by is not None:
        names = [f"image_{side}_{'model' if rules.by == BY_MODEL else 'uid'}" for side in (0, 1)]
        if missing := [name for name in names if name not in rows.columns]:
            raise SourceError(f"labels.values is '{rules.by}', but there is no '{missing[0]}'; map it in the manifest")
        sides = [rows[name] for name in names]
        marks = marks.cast(pl.String)
        label = pl.when(marks == sides[0]).then(1.0).when(marks == sides[1]).then(0.0)
        return pl.select(pl.when(sides[0] == sides[1]).then(None).otherwise(label)).to_series()
    if rules.values:
        known = {_plain(key): value for key, value in rules.values.items()}
        distinct = marks.unique().drop_nulls()
        means = [known.get(_plain(mark)) for mark in distinct.to_list()]
        return marks.replace_strict(distinct, pl.Series(means, dtype=pl.Float64), default=None, return_dtype=pl.Float64)
    numbers = marks.cast(pl.String).str.strip_chars() if marks.dtype == pl.String else marks
    numbers = numbers.cast(pl.Float64, strict=False)
    return numbers.zip_with(numbers.is_in(LABELS).fill_null(False), pl.Series([None], dtype=pl.Float64))


def _plain(mark: object) -> str:
    """A mark as a manifest writes it: 1, 1.0, True and "1.0" are "1"."""
    if isinstance(mark, bool):
        return str(int(mark))
    text = str(mark).strip()
    try:
        number = float(text)
    except ValueError:
        return text
    return str(int(number)) if number.is_integer() else text


def _sides(rows: pl.DataFrame, rules: LabelRules) -> tuple[pl.Series, pl.Series]:
    """Votes for image 0 and for image 1; null where they are not votes."""
    if "share_0" in rows.columns:
        share = rows["share_0"].cast(pl.Float64, strict=False)
        return share, 1.0 - share
    if "votes" in rows.columns:
        counted = [_count(votes, rules) for votes in rows["votes"].to_list()]
        sides = list(zip(*counted, strict=True)) if counted else ((), ())
        return pl.Series(sides[0], dtype=pl.Float64), pl.Series(sides[1], dtype=pl.Float64)
    return rows["votes_0"].cast(pl.Float64, strict=False), rows["votes_1"].cast(pl.Float64, strict=False)


def _count(votes: Any, rules: LabelRules) -> tuple[float | None, float | None]:
    """Both sides' votes of a list of votes, or of its JSON text; of an object, each vote has its count as value."""
    try:
        parsed = json.loads(votes) if isinstance(votes, str) else votes
        weighed: Iterable[tuple[Any, float]] = (
            parsed.items() if isinstance(parsed, dict) else ((vote, 1.0) for vote in parsed)
        )
        known = {_plain(key): value for key, value in rules.values.items()} or {"1": 1.0, "0": 0.0, "0.5": 0.5}
        side_0 = side_1 = 0.0
        for vote, weight in weighed:
            label = float(known[_plain(vote)])
            side_0, side_1 = side_0 + label * float(weight), side_1 + (1 - label) * float(weight)
        return side_0, side_1
    except (ValueError, TypeError, KeyError, AttributeError):
        return None, None


def _voted(side_0: pl.Series, side_1: pl.Series, rules: LabelRules) -> dict[str, pl.Series]:
    """The majority's label, a tie below the least margin or share, and the share of the side that has more."""
    frame = pl.DataFrame({"zero": side_0, "one": side_1})
    sound = pl.all_horizontal(pl.col("zero", "one").is_finite() & (pl.col("zero", "one") >= 0))
    total, most = pl.col("zero") + pl.col("one"), pl.max_horizontal("zero", "one")
    share, margin = most / total, (pl.col("zero") - pl.col("one")).abs()
    tie = (margin == 0) | (margin < rules.least_margin) | (share < rules.least_share)
    label = pl.when(tie).then(0.5).when(pl.col("zero") > pl.col("one")).then(1.0).otherwise(0.0)
    counts = sound.fill_null(False) & (total > 0)
    made = frame.select(label_0=pl.when(counts).then(label), strength=pl.when(counts).then(share))
    return {"label_0": made["label_0"], "strength": made["strength"]}
