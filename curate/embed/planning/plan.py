"""From the source's keys alone: which pairs stand, which images and prompts to score, cut into parts.

No image bytes are read here. The plan is a function of the source's content and the manifest, so a run
that starts again plans the same parts.
"""

import ctypes
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from curate.embed.options import PART_BYTES
from curate.embed.planning.parts import Part as Part, Parts, cut
from curate.errors import SourceError
from curate.sources.labels import share_label, with_labels
from curate.sources.parquet import Source
from curate.storage.prefetch import prefetched
from schemas import tables

OPTIONAL_TEXT = ("annotator_id", "image_0_model", "image_1_model", "category")
IDENTITY = ("image_0_uid", "image_1_uid", "given_label", "annotator_id", "judgement_id")  # after the prompt
SIZES = ("image_0_size_bytes", "image_1_size_bytes")
HASHED_TOGETHER = 20_000


@dataclass(frozen=True)
class Plan:
    """`pairs` and `dropped` are finished tables; `prompts` maps id to text; parts await the towers.

    image_bytes: encoded bytes of the unique images, estimated from the files' metadata; None when they lie elsewhere.
    """

    source_rows: int
    pairs: pa.Table
    dropped: pa.Table
    prompts: dict[str, str]
    parts: Parts
    image_bytes: int | None

    @property
    def image_count(self) -> int:
        """Unique images."""
        return self.parts.image_count

    def without_tables(self) -> "Plan":
        """What is needed once the tables are written: they are empty."""
        return replace(self, pairs=tables.PAIRS.empty_table(), dropped=tables.DROPPED.empty_table())

    def counts(self) -> dict[str, Any]:
        """What `--dry-run` prints: source_rows = pairs + Σ dropped_pairs."""
        return {
            "source_rows": self.source_rows,
            "pairs": self.pairs.num_rows,
            "dropped_pairs": _counts(pl.Series(self.dropped["reason"])),
            "prompts": len(self.prompts),
            "images": self.image_count,
            "image_bytes": self.image_bytes,
            "parts": len(self.parts),
        }


def make_plan(source: Source, part_images: int, part_bytes: int = PART_BYTES) -> Plan:
    """Read the keys, judge each row, and cut the unique images into parts of about `part_images` or `part_bytes`.

    Raises: SourceError, also when no row stands.
    """
    rows, texts = _canonical_rows(source)
    release_freed_memory()
    source_rows = rows.height
    rows = rows.with_columns(reason=_why_dropped(source, texts))
    with ThreadPoolExecutor(1) as beside:  # hashing holds the GIL, polars does not
        found = beside.submit(_unique_images, rows.filter(pl.col("reason").is_null()))
        rows = rows.with_columns(pair=_pair_numbers(rows, texts)).drop("given_label", "judgement_id", strict=False)
        images = found.result()
    judged = _with_duplicates(_with_one_question(rows, source))
    del rows, found  # here and below: each column is held once
    kept = judged.filter(pl.col("reason").is_null())
    dropped = judged.filter(pl.col("reason").is_not_null())
    del judged
    if kept.is_empty():
        counts = ", ".join(f"{count:,} {reason}" for reason, count in _counts(dropped["reason"]).items())
        raise SourceError(f"none of the {source_rows:,} rows can be used: {counts}; correct the manifest or --source")
    release_freed_memory()
    used = kept["prompt"].unique(maintain_order=True)
    prompt_ids = _hex(b"".join(_digests(some.to_series()) for some in texts.to_frame().iter_slices(HASHED_TOGETHER)))
    bounds = cut(images, part_bytes, part_images)
    return Plan(
        source_rows=source_rows,
        pairs=_pairs_table(kept, prompt_ids, source),
        dropped=_dropped_table(dropped, source),
        prompts=dict(zip(prompt_ids.gather(used), texts.gather(used), strict=True)),
        parts=Parts(images, bounds, source.files, prompt_ids, range(len(bounds) - 1)),
        image_bytes=None if images["size_bytes"].null_count() else round(images["size_bytes"].sum()),
    )


def release_freed_memory() -> None:
    """Each allocator keeps what was freed for its own next request, where no other can use it: arrow's, and C's.

    Between the steps of a large job. glibc alone has a trim: https://man7.org/linux/man-pages/man3/malloc_trim.3.html
    """
    pa.default_memory_pool().release_unused()
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def stable_id(*values: object) -> str:
    """64 bits of BLAKE2b as 16 hex digits over the values' text; equal values, equal id, on any machine."""
    joined = "\x1f".join(["" if value is None else str(value) for value in values])
    return blake2b(joined.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _digests(texts: pl.Series) -> bytes:
    """The 8 bytes of each text's `stable_id`, in a row. A tight loop: calling `stable_id` takes three times as long."""
    fresh, digests = blake2b(digest_size=8).copy, []
    for text in texts.cast(pl.Binary).to_list():
        hashed = fresh()
        hashed.update(text)
        digests.append(hashed.digest())
    return b"".join(digests)


def _hex(digests: bytes) -> pl.Series:
    """16 hex digits for each 8 bytes."""
    count = len(digests) // 8
    offsets = pa.py_buffer(np.arange(0, 16 * count + 1, 16, dtype=np.int64))
    text = pa.py_buffer(digests.hex().encode("ascii"))
    return pl.Series(pa.LargeStringArray.from_buffers(count, offsets, text))


def _as_text(values: pl.Series) -> pl.Series:
    """As `str` writes it, which for numbers is not as polars does; few are distinct."""
    if values.dtype == pl.String:
        return values.fill_null("")
    distinct = values.unique().drop_nulls()
    return values.replace_strict(distinct, [str(value) for value in distinct], default="", return_dtype=pl.String)


def _counts(reasons: pl.Series) -> dict[str, int]:
    return dict(sorted(reasons.value_counts().iter_rows()))


def _canonical_rows(source: Source) -> tuple[pl.DataFrame, pl.Series]:
    """Every row, files and prompts by number; the prompts, in order of appearance. Raises: SourceError."""
    with prefetched(source.key_rows(), 1) as tables_read:  # arrow needs no GIL, which hashing holds
        frames = [_row_frame(table, source) for table in tables_read if table.num_rows]
    if not frames:
        raise SourceError(f"no rows in {', '.join(source.files)}; correct --source or the manifest's files")
    encoded = _joined(frames, "prompt").to_arrow().dictionary_encode()
    columns = [_joined(frames, name) for name in frames[0].columns]
    del frames
    prompts, texts = pl.Series("prompt", encoded.indices).cast(pl.UInt32), pl.Series(encoded.dictionary)
    del encoded
    return pl.DataFrame([*columns, prompts]), texts


def _joined(frames: list[pl.DataFrame], name: str) -> pl.Series:
    """A column of all frames, in one piece, and out of them: no more than one is there twice at a time."""
    pieces = [frame.drop_in_place(name).to_frame() for frame in frames]
    return pl.concat(pieces, how="vertical_relaxed").rechunk()[name]


def _row_frame(table: pa.Table, source: Source) -> pl.DataFrame:
    """Rows of one file, with what the source says of the pair as one label, and that label as it is given."""
    file = pl.lit(source.files.index(table["source_file"][0].as_py()), pl.UInt32)
    rows = pl.DataFrame(table.drop_columns(["source_file"]))
    rows = _with_all(rows, ("bad_text",), pl.Boolean).with_columns(file=file, prompt=pl.col("prompt").fill_null(""))
    if "label_0" in rows.columns:
        rows = rows.with_columns(given_label=_as_text(rows["label_0"]))
    return with_labels(rows, source.manifest.labels, source.manifest.always_0)


def _pair_numbers(rows: pl.DataFrame, prompts: pl.Series) -> pl.Series:
    """The bits of each row's pair_id. Where several questions were asked, it is the same for each of them."""
    left_out = {"given_label"} if "dimension" in rows.columns else set()
    known = set(rows.columns) - left_out
    digests = bytearray()
    for some in rows.iter_slices(HASHED_TOGETHER):
        identity = [some[name].fill_null("") if name in known else pl.lit("") for name in IDENTITY]
        texts = pl.select(pl.concat_str(prompts.gather(some["prompt"]), *identity, separator="\x1f")).to_series()
        digests += _digests(texts)
    return pl.Series(np.frombuffer(digests, np.uint64))


def _why_dropped(source: Source, prompts: pl.Series) -> pl.Expr:
    """The first reason that applies, in the order of schemas.reasons, or null."""
    empty_prompts = (prompts.str.strip_chars() == "").arg_true()
    manifest = source.manifest
    uids = [pl.col("image_0_uid"), pl.col("image_1_uid")]
    control = list(manifest.control_image_uids)
    unlabelled = ~pl.col("labelled").fill_null(False) if "labelled" in source.columns else pl.lit(False)
    bad_label = pl.col("label_0").is_null() if source.judged else pl.lit(False)
    if source.dimension is not None and "dimension" not in source.columns:
        raise SourceError(f"there is no column 'dimension' to find '{source.dimension}' in; map it, or choose none")
    other = pl.col("dimension").ne_missing(pl.lit(source.dimension)) if source.dimension is not None else pl.lit(False)
    checks = {
        "unlabelled": unlabelled,
        "other_dimension": other,
        "control_image": uids[0].is_in(control) | uids[1].is_in(control),
        "bad_label": bad_label,
        "bad_text": pl.col("bad_text"),
        "empty_prompt": pl.col("prompt").is_in(empty_prompts.implode()),
        "missing_image": (uids[0].fill_null("") == "") | (uids[1].fill_null("") == ""),
        "same_image": uids[0] == uids[1],
    }
    reason: Any = pl.lit(None, pl.String)
    for word, applies in reversed(checks.items()):
        reason = pl.when(applies.fill_null(False)).then(pl.lit(word)).otherwise(reason)
    return reason


def _with_one_question(rows: pl.DataFrame, source: Source) -> pl.DataFrame:
    """Of several questions about a pair the mean of their shares counts, where none was chosen.

    Each question counts once, whoever answered; `disagreement` is the share of them whose winner is another. The first
    row stays with the mean; the others are counted as `other_dimension`.
    """
    if "dimension" not in rows.columns or source.dimension is not None:
        return rows
    label, strength = pl.col("label_0"), pl.col("strength").fill_null(1.0)
    share = pl.when(label == 1.0).then(strength).when(label == 0.0).then(1.0 - strength).otherwise(0.5)
    standing = rows.with_row_index("place").filter(pl.col("reason").is_null())
    questions = standing.group_by("pair", "dimension", maintain_order=True).agg(
        place=pl.col("place").first(), share=share.mean(), label_0=share_label(share.mean(), source.manifest.labels)[0]
    )
    mean_label, mean_strength = share_label(pl.col("share"), source.manifest.labels)
    pairs = (
        questions.group_by("pair", maintain_order=True)
        .agg(pl.col("place").first(), pl.col("share").mean(), each=pl.col("label_0"))
        .with_columns(label_0=mean_label, strength=mean_strength)
        .explode("each")
        .group_by("place", "label_0", "strength", maintain_order=True)
        .agg(disagreement=(pl.col("each") != pl.col("label_0")).mean())
    )
    places = pairs["place"]
    others = standing.filter(~pl.col("place").is_in(places.implode()))["place"]
    nothing = pl.Series([None], dtype=pl.Float64).new_from_index(0, rows.height)
    return rows.with_columns(
        label_0=rows["label_0"].scatter(places, pairs["label_0"]),
        strength=rows["strength"].scatter(places, pairs["strength"]),
        disagreement=nothing.scatter(places, pairs["disagreement"]),
        reason=rows["reason"].scatter(others, "other_dimension") if len(others) else rows["reason"],
    )


def _with_duplicates(rows: pl.DataFrame) -> pl.DataFrame:
    """The same judgement of the same pair counts once; which copy stays makes no difference but its location."""
    standing = rows["reason"].is_null().arg_true()
    again = standing.filter(~rows["pair"].gather(standing).is_first_distinct())
    return rows.with_columns(reason=rows["reason"].scatter(again, "duplicate_pair"))


def _with_names(rows: pl.DataFrame, source: Source) -> pl.DataFrame:
    return rows.with_columns(
        source_file=pl.Series(source.files, dtype=pl.String).gather(rows["file"]),
        pair_id=_hex(rows["pair"].to_numpy().tobytes()),
    )


def _with_all(rows: pl.DataFrame, names: tuple[str, ...], of_type: Any) -> pl.DataFrame:
    """The columns that the source lacks are there, and empty."""
    return rows.with_columns(pl.lit(None, of_type).alias(name) for name in names if name not in rows.columns)


def _pairs_table(kept: pl.DataFrame, prompt_ids: pl.Series, source: Source) -> pa.Table:
    preference = pl.when(pl.col("label_0") == 1.0).then(0).when(pl.col("label_0") == 0.0).then(1)
    kept = _with_all(kept, OPTIONAL_TEXT, pl.String)
    kept = _with_all(kept, ("strength", "disagreement"), pl.Float64)
    frame = _with_names(kept, source).with_columns(
        preference=preference.cast(pl.Int8), split=pl.lit(source.split), prompt_id=prompt_ids.gather(kept["prompt"])
    )
    own = frame.select(tables.PAIRS.names).to_arrow().cast(tables.PAIRS)
    for name in source.manifest.keep:
        own = own.append_column(name, frame[name].to_arrow())
    return own


def _dropped_table(dropped: pl.DataFrame, source: Source) -> pa.Table:
    place = pl.format("{} row group {} row {}", "source_file", "source_row_group", "source_row")
    detail = pl.when(pl.col("reason") == "bad_label").then(pl.format("{}: {}", place, "stated")).otherwise(place)
    nothing = pl.lit(None, pl.String)
    frame = _with_names(dropped, source).with_columns(stage=pl.lit("embed"), image_uid=nothing, detail=detail)
    return frame.select(tables.DROPPED.names).to_arrow().cast(tables.DROPPED)


def _unique_images(rows: pl.DataFrame) -> pl.DataFrame:
    """Each unique image at its first location, in the source's order, with the numbers of its prompts.

    rows: those that may stand; a pair that is there twice brings nothing new. A prompt is listed once for each row.
    """
    uids = rows.select("prompt", image_uid=pl.concat_list("image_0_uid", "image_1_uid")).explode("image_uid")
    images = uids.with_row_index("slot").group_by("image_uid", maintain_order=True)
    found = images.agg(pl.col("slot").first(), prompts="prompt")
    row, side = found["slot"] // 2, (found["slot"] % 2).cast(pl.UInt8)
    return _with_all(rows, SIZES, pl.Float64)[row].select(
        "file",
        found["image_uid"],
        size_bytes=pl.when(side == 0).then("image_0_size_bytes").otherwise("image_1_size_bytes"),
        row_group="source_row_group",
        row="source_row",
        side=side,
        prompts=found["prompts"],
    )
