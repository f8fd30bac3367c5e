"""One device's work: parts of the plan in, tables of the run out."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from curate.engines.local import batched, map_ahead
from curate.errors import SourceError
from curate.images import Rejected, decode
from curate.plan import PART_BYTES, Part
from curate.run import Run, write_part
from curate.scoring import EmbeddedPrompts, Scoring, embedding_columns
from curate.source import Location, Source
from curate.tables import rows_table
from schemas import tables


@dataclass(frozen=True)
class EmbedOptions:
    """How the work is cut: images of a forward pass, images and bytes of a part, threads that decode."""

    device: str
    precision: str
    batch_images: int = 64
    part_images: int = 4096
    decode_threads: int = os.cpu_count() or 1
    part_bytes: int = PART_BYTES


@dataclass(frozen=True)
class Picture:
    """One decoded image: its row of the images table without embeddings, and its preprocessed tensors."""

    row: dict[str, object]
    pixels: dict[str, torch.Tensor]


@dataclass(frozen=True)
class Done:
    """What was just finished: images, and how many of them were dropped for each reason."""

    images: int
    dropped: dict[str, int]


def compute_parts(
    run: Run,
    source: Source,
    scoring: Scoring,
    prompts: EmbeddedPrompts,
    parts: Iterable[Part],
    options: EmbedOptions,
    report: Callable[[Done], None],
) -> None:
    """Compute and write each part as `parts` yields it; a part stands whole or not at all.

    Raises: SourceError, ModelError, WriteError.
    """
    image_schema = tables.with_embeddings(tables.IMAGES, scoring.dimensions, pa.float16())
    score_schema = tables.with_scores(tables.SCORES, list(scoring.heads))
    with ThreadPoolExecutor(options.decode_threads) as pool:
        for part in parts:
            images, scores, dropped = _part_tables(part, source, scoring, prompts, options, pool, report)
            files = {
                "images": (images, image_schema),
                "scores": (scores, score_schema),
                "dropped": (dropped, tables.DROPPED),
            }
            write_part(run, part.name, files)


def _part_tables(
    part: Part,
    source: Source,
    scoring: Scoring,
    prompts: EmbeddedPrompts,
    options: EmbedOptions,
    pool: ThreadPoolExecutor,
    report: Callable[[Done], None],
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
        reasons = Counter(result.reason for result in results if isinstance(result, Rejected))
        report(Done(len(items), dict(reasons)))
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
