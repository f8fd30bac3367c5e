"""From the source's keys alone: which pairs stand, which images and prompts to score, cut into parts.

No image bytes are read here. The plan is a function of the source's content and the manifest, so a run
that starts again plans the same parts.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass
from typing import Any

import polars as pl
import pyarrow as pa

from curate.errors import SourceError
from curate.source import Location, Source
from schemas import tables

OPTIONAL_TEXT = ("annotator_id", "judgement_id", "image_0_model", "image_1_model", "category")
LABELS = (0.0, 0.5, 1.0)


@dataclass(frozen=True)
class Part:
    """A bounded slice of the unique images, with each image's location and the prompts that it is paired with."""

    index: int
    images: tuple[tuple[str, Location], ...]  # (image_uid, where its bytes are)
    prompt_ids: dict[str, tuple[str, ...]]  # image_uid -> prompts of the pairs it occurs in

    @property
    def name(self) -> str:
        """File stem of the part's tables."""
        return f"part-{self.index:05d}"


@dataclass(frozen=True)
class Plan:
    """`pairs` and `dropped` are finished tables; `prompts` maps id to text; parts await the towers."""

    source_rows: int
    pairs: pa.Table
    dropped: pa.Table
    prompts: dict[str, str]
    parts: list[Part]

    @property
    def image_count(self) -> int:
        """Unique images."""
        return sum(len(part.images) for part in self.parts)

    def counts(self) -> dict[str, Any]:
        """What `--dry-run` prints: source_rows = pairs + Σ dropped_pairs."""
        return {
            "source_rows": self.source_rows,
            "pairs": self.pairs.num_rows,
            "dropped_pairs": _counts(self.dropped["reason"].to_pylist()),
            "prompts": len(self.prompts),
            "images": self.image_count,
            "parts": len(self.parts),
        }


def make_plan(source: Source, part_images: int) -> Plan:
    """Read the keys, judge each row, and cut the unique images into parts of `part_images`.

    Raises: SourceError, also when no row stands.
    """
    rows = _canonical_rows(source)
    judged = rows.with_columns(reason=_reason(source))
    judged = _with_duplicates(judged)
    kept = judged.filter(pl.col("reason").is_null())
    dropped = judged.filter(pl.col("reason").is_not_null())
    if kept.is_empty():
        counts = ", ".join(f"{count:,} {reason}" for reason, count in _counts(dropped["reason"].to_list()).items())
        raise SourceError(f"none of the {rows.height:,} rows can be used: {counts}; correct the manifest or --source")
    prompts = dict(kept.select("prompt_id", "prompt").unique(maintain_order=True).iter_rows())
    return Plan(
        source_rows=rows.height,
        pairs=_pairs_table(kept, source),
        dropped=_dropped_table(dropped),
        prompts=prompts,
        parts=_parts(kept, part_images),
    )


def stable_id(*values: object) -> str:
    """64 bits of BLAKE2b as 16 hex digits over the values' text; equal values, equal id, on any machine."""
    joined = "\x1f".join(["" if value is None else str(value) for value in values])
    return hashlib.blake2b(joined.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _counts(reasons: list[str]) -> dict[str, int]:
    return dict(sorted(Counter(reasons).items()))


def _canonical_rows(source: Source) -> pl.DataFrame:
    frames = [pl.DataFrame(table) for table in source.key_rows()]
    frames = [frame for frame in frames if frame.height]
    if not frames:
        raise SourceError(f"no rows in {', '.join(source.files)}; correct --source or the manifest's files")
    rows = pl.concat(frames, how="vertical_relaxed")
    absent = [pl.lit(None, pl.String).alias(name) for name in OPTIONAL_TEXT if name not in rows.columns]
    absent += [pl.lit(None, pl.Float64).alias(name) for name in ("label_0", "label_1") if name not in rows.columns]
    rows = rows.with_columns(absent)
    prompt_ids = {prompt: stable_id(prompt) for prompt in rows["prompt"].unique()}
    identity = ("prompt", "image_0_uid", "image_1_uid", "label_0", "annotator_id", "judgement_id")
    return rows.with_columns(
        pair_id=pl.Series([stable_id(*row) for row in rows.select(identity).iter_rows()], dtype=pl.String),
        prompt_id=pl.Series([prompt_ids[prompt] for prompt in rows["prompt"]], dtype=pl.String),
    )


def _reason(source: Source) -> pl.Expr:
    """The first reason that applies, in the order of schemas.reasons, or null."""
    manifest = source.manifest
    uids = [pl.col("image_0_uid"), pl.col("image_1_uid")]
    control = list(manifest.control_image_uids)
    label = pl.col("label_0")
    good_label = label.is_in(LABELS)
    if "label_1" in manifest.columns:
        good_label &= (label + pl.col("label_1")) == 1.0
    unlabelled = ~pl.col("labelled").fill_null(False) if "labelled" in manifest.columns else pl.lit(False)
    bad_label = ~good_label.fill_null(False) if manifest.judged else pl.lit(False)
    checks = {
        "unlabelled": unlabelled,
        "control_image": uids[0].is_in(control) | uids[1].is_in(control),
        "bad_label": bad_label,
        "empty_prompt": pl.col("prompt").fill_null("").str.strip_chars() == "",
        "missing_image": (uids[0].fill_null("") == "") | (uids[1].fill_null("") == ""),
        "same_image": uids[0] == uids[1],
    }
    reason: Any = pl.lit(None, pl.String)
    for word, applies in reversed(checks.items()):
        reason = pl.when(applies.fill_null(False)).then(pl.lit(word)).otherwise(reason)
    return reason


def _with_duplicates(rows: pl.DataFrame) -> pl.DataFrame:
    """The same judgement of the same pair counts once; which copy stays makes no difference but its location."""
    repeated = pl.col("reason").is_null() & ~pl.col("pair_id").is_first_distinct().over(pl.col("reason").is_null())
    return rows.with_columns(reason=pl.when(repeated).then(pl.lit("duplicate_pair")).otherwise(pl.col("reason")))


def _pairs_table(kept: pl.DataFrame, source: Source) -> pa.Table:
    preference = pl.when(pl.col("label_0") == 1.0).then(0).when(pl.col("label_0") == 0.0).then(1)
    frame = kept.with_columns(preference=preference.cast(pl.Int8), split=pl.lit(source.split))
    return frame.select(tables.PAIRS.names).to_arrow().cast(tables.PAIRS)


def _dropped_table(dropped: pl.DataFrame) -> pa.Table:
    place = pl.format("{} row group {} row {}", "source_file", "source_row_group", "source_row")
    labels = pl.format(
        ": label_0 {}, label_1 {}",
        *(pl.col(n).cast(pl.String).fill_null("null") for n in ("label_0", "label_1")),
    )
    detail = pl.when(pl.col("reason") == "bad_label").then(pl.concat_str(place, labels)).otherwise(place)
    frame = dropped.with_columns(stage=pl.lit("embed"), image_uid=pl.lit(None, pl.String), detail=detail)
    return frame.select(tables.DROPPED.names).to_arrow().cast(tables.DROPPED)


def _parts(kept: pl.DataFrame, part_images: int) -> list[Part]:
    """Each unique image at its first location; parts follow the files, so that a row group is read once or twice."""
    place = ["source_file", "source_row_group", "source_row"]
    slots = pl.concat(
        kept.select(pl.col(f"image_{side}_uid").alias("image_uid"), "prompt_id", *place, pl.lit(side).alias("side"))
        for side in tables.IMAGE_SIDES
    ).sort(*place, "side")
    images = slots.group_by("image_uid", maintain_order=True).agg(
        *(pl.col(name).first() for name in (*place, "side")), pl.col("prompt_id").unique(maintain_order=True)
    )
    parts = []
    for index, start in enumerate(range(0, images.height, part_images)):
        rows = images.slice(start, part_images).rows()
        located = tuple((uid, Location(*location)) for uid, *location, _ in rows)
        parts.append(Part(index, located, {uid: tuple(prompt_ids) for uid, *_, prompt_ids in rows}))
    return parts
