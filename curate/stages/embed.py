"""`curate embed`: the source's pairs, unique images and prompts, scored once, in parts that survive a kill."""

import hashlib
import itertools
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from curate.engines.local import batched, map_ahead
from curate.errors import SourceError
from curate.images import Rejected, decode
from curate.plan import Part, Plan, make_plan
from curate.progress import Advance, progress, say
from curate.run import Run, part_rows, write_part
from curate.scoring import EmbeddedPrompts, Scoring, embedding_columns, embedding_matrix
from curate.source import Location, Source
from curate.tables import rows_table, write_table
from schemas import tables
from schemas.reasons import IMAGE_REASONS

PROMPTS_PER_PART = 4096
PACKAGES = ("torch", "open_clip_torch", "transformers", "pillow", "pyarrow")


@dataclass(frozen=True)
class EmbedOptions:
    """How the work is cut: images of a forward pass, images of a part, threads that decode."""

    device: str
    precision: str
    batch_images: int = 64
    part_images: int = 1024
    decode_threads: int = os.cpu_count() or 1


@dataclass(frozen=True)
class Picture:
    """One decoded image: its row of the images table without embeddings, and its preprocessed tensors."""

    row: dict[str, object]
    pixels: dict[str, torch.Tensor]


def embed(run: Run, source: Source, scoring: Scoring, options: EmbedOptions) -> dict[str, Any]:
    """Write every table of the run and return the counts; sound parts of an earlier attempt are kept.

    Raises: RunError when the directory holds tables made under other settings; SourceError; WriteError.
    """
    plan = make_plan(source, options.part_images)
    with run.locked():
        return _embed(run, source, plan, scoring, options)


def source_settings(source: Source, options: EmbedOptions) -> dict[str, Any]:
    """The settings that are known before any weights are loaded."""
    return {
        "manifest": source.manifest.settings(),
        "split": source.split,
        "files": source.sizes(),
        "device": options.device.split(":")[0],
        "precision": options.precision,
        "part_images": options.part_images,
    }


def _embed(run: Run, source: Source, plan: Plan, scoring: Scoring, options: EmbedOptions) -> dict[str, Any]:
    # Equal settings give equal tables: this is everything that decides a table's content.
    settings = source_settings(source, options) | {"models": scoring.identity}
    info = {"models": scoring.models, "packages": {name: version(name) for name in PACKAGES}}
    continued = run.claim(settings, info)
    if continued:
        say(f"{run.root} holds parts of this run; the sound ones are kept")
    if source.expected_rows not in (None, plan.source_rows):
        say(f"note: the manifest expects {source.expected_rows:,} rows, the files hold {plan.source_rows:,}")
    write_table(plan.pairs, run.pairs, tables.PAIRS)
    write_table(plan.dropped, run.table("dropped") / "plan.parquet", tables.DROPPED)
    prompt_embeddings = _embed_prompts(run, plan, scoring)
    computed = _embed_images(run, plan, source, scoring, prompt_embeddings, options)
    summary = _summary(run, plan, source, scoring) | {"parts_computed": computed, "parts": len(plan.parts)}
    run.mark_finished(summary)
    return summary


def _embed_prompts(run: Run, plan: Plan, scoring: Scoring) -> EmbeddedPrompts:
    """Computed in parts, read back from the sound ones."""
    schema = tables.with_embeddings(tables.PROMPTS, scoring.dimensions, pa.float32())
    parts: list[pa.Table] = []
    with progress("prompts", len(plan.prompts)) as advance:
        for index, chunk in enumerate(batched(list(plan.prompts.items()), PROMPTS_PER_PART)):
            name = f"prompts-{index:05d}"
            if part_rows(run, name) is None:
                write_part(run, name, {"prompts": (_prompt_table(chunk, scoring, advance), schema)})
            parts.append(pq.read_table(run.table("prompts") / f"{name}.parquet"))
    table = pa.concat_tables(parts)
    embeddings = {
        tower: embedding_matrix(table[tables.embedding_column(tower)], dimension)
        for tower, dimension in scoring.dimensions.items()
    }
    rows = {prompt_id: row for row, prompt_id in enumerate(table["prompt_id"].to_pylist())}
    return EmbeddedPrompts(rows, table["prompt"].to_pylist(), embeddings)


def _prompt_table(chunk: list[tuple[str, str]], scoring: Scoring, advance: Advance, batch: int = 256) -> pa.Table:
    embeddings: dict[str, list[torch.Tensor]] = {tower: [] for tower in scoring.towers}
    for rows in batched(chunk, batch):
        for tower, values in scoring.embed_prompts([prompt for _, prompt in rows]).items():
            embeddings[tower].append(values)
        advance(len(rows))
    columns = {"prompt_id": [key for key, _ in chunk], "prompt": [prompt for _, prompt in chunk]}
    return pa.table(columns | embedding_columns({t: torch.cat(v) for t, v in embeddings.items()}, pa.float32()))


def _embed_images(
    run: Run,
    plan: Plan,
    source: Source,
    scoring: Scoring,
    prompts: EmbeddedPrompts,
    options: EmbedOptions,
) -> int:
    """Compute each part that is not there and sound; returns how many."""
    image_schema = tables.with_embeddings(tables.IMAGES, scoring.dimensions, pa.float16())
    score_schema = tables.with_scores(tables.SCORES, list(scoring.heads))
    todo = [part for part in plan.parts if part_rows(run, part.name) is None]
    with (
        progress("images", sum(len(part.images) for part in todo)) as advance,
        ThreadPoolExecutor(options.decode_threads) as pool,
    ):
        for part in todo:
            images, scores, dropped = _part_tables(part, source, scoring, prompts, options, pool, advance)
            files = {
                "images": (images, image_schema),
                "scores": (scores, score_schema),
                "dropped": (dropped, tables.DROPPED),
            }
            write_part(run, part.name, files)
    return len(todo)


def _part_tables(
    part: Part,
    source: Source,
    scoring: Scoring,
    prompts: EmbeddedPrompts,
    options: EmbedOptions,
    pool: ThreadPoolExecutor,
    advance: Advance,
) -> tuple[pa.Table, pa.Table, pa.Table]:
    """Images, scores and dropped of one part."""
    encoded = source.image_bytes([location for _, location in part.images])
    if not encoded:
        raise SourceError(f"part {part.index} has no images")
    image_tables, score_tables, dropped = [], [], []

    def prepare(item: tuple[str, Location]) -> Picture | Rejected:
        return _prepare(*item, encoded[item[1]], scoring)

    for items, results in map_ahead(pool, prepare, batched(list(part.images), options.batch_images)):
        pictures = [result for result in results if isinstance(result, Picture)]
        for (uid, _), result in zip(items, results, strict=True):
            if isinstance(result, Rejected):
                dropped.append(_dropped_row(uid, result))
        if pictures:
            uids = [str(picture.row["image_uid"]) for picture in pictures]
            matched = [(index, prompt_id) for index, uid in enumerate(uids) for prompt_id in part.prompt_ids[uid]]
            pixels = [picture.pixels for picture in pictures]
            embeddings, scores_of = scoring.score_pictures(pixels, matched, prompts)
            image_tables.append(_image_table([picture.row for picture in pictures], embeddings))
            score_tables.append(_score_table(uids, matched, scores_of))
        advance(len(items))
    images = pa.concat_tables(image_tables) if image_tables else _empty_images(scoring)
    scores = pa.concat_tables(score_tables) if score_tables else _empty_scores(scoring)
    return images, scores, rows_table(dropped, tables.DROPPED)


def _prepare(uid: str, location: Location, data: bytes | None, scoring: Scoring) -> Picture | Rejected:
    decoded = decode(data)
    if isinstance(decoded, Rejected):
        return decoded
    row: dict[str, object] = {
        "image_uid": uid,
        "sha256": hashlib.sha256(data or b"").hexdigest(),
        "width": decoded.image.width,
        "height": decoded.image.height,
        "format": decoded.format,
        "source_file": location.file,
        "source_row_group": location.row_group,
        "source_row": location.row,
        "source_side": location.side,
    }
    return Picture(row, scoring.preprocess(decoded.image))


def _image_table(rows: list[dict[str, object]], embeddings: dict[str, torch.Tensor]) -> pa.Table:
    table = rows_table(rows, tables.IMAGES)
    for name, column in embedding_columns(embeddings, pa.float16()).items():
        table = table.append_column(name, column)
    return table


def _score_table(uids: list[str], matched: list[tuple[int, str]], scores: dict[str, np.ndarray]) -> pa.Table:
    """One row for each prompt that an image is paired with."""
    columns: dict[str, Any] = {
        "prompt_id": [prompt_id for _, prompt_id in matched],
        "image_uid": [uids[index] for index, _ in matched],
    }
    return pa.table(
        columns | {tables.score_column(name): pa.array(values, pa.float32()) for name, values in scores.items()}
    )


def _empty_images(scoring: Scoring) -> pa.Table:
    return tables.with_embeddings(tables.IMAGES, scoring.dimensions, pa.float16()).empty_table()


def _empty_scores(scoring: Scoring) -> pa.Table:
    return tables.with_scores(tables.SCORES, list(scoring.heads)).empty_table()


def _dropped_row(uid: str, rejected: Rejected) -> dict[str, object]:
    return {
        "stage": "embed",
        "pair_id": None,
        "image_uid": uid,
        "reason": rejected.reason,
        "detail": rejected.detail,
    }


def _summary(run: Run, plan: Plan, source: Source, scoring: Scoring) -> dict[str, Any]:
    """The counts of the run, which must add up: rows = pairs + Σ dropped, images = scored + Σ dropped."""
    dropped_pairs = Counter(plan.dropped["reason"].to_pylist())
    counted = [part_rows(run, part.name) or {} for part in plan.parts]
    reasons = itertools.chain.from_iterable(
        pq.read_table(run.table("dropped") / f"{part.name}.parquet")["reason"].to_pylist() for part in plan.parts
    )
    dropped_images = Counter(reasons)
    scored = sum(rows["images"] for rows in counted)
    if scored + sum(dropped_images.values()) != plan.image_count or not set(dropped_images) <= set(IMAGE_REASONS):
        raise SourceError(f"the counts of {run.root} do not add up; delete it and run `curate embed` again")
    return {
        "dataset": source.manifest.name,
        "split": source.split,
        "source_rows": plan.source_rows,
        "pairs": plan.pairs.num_rows,
        "ties": plan.pairs["preference"].null_count if source.manifest.judged else 0,
        "judged": source.manifest.judged,
        "dropped_pairs": dict(sorted(dropped_pairs.items())),
        "prompts": len(plan.prompts),
        "images": plan.image_count,
        "scored_images": scored,
        "dropped_images": dict(sorted(dropped_images.items())),
        "scored_prompt_images": sum(rows["scores"] for rows in counted),
        "scorers": list(scoring.heads),
    }
