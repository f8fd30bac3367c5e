"""What was computed of one part, batch by batch, and the tables that it becomes."""

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import torch

from curate.embed.decode.preprocess import DecodedFacts
from curate.embed.device.reports import DroppedImage
from curate.embed.planning.plan import Part
from curate.models.scoring import Scoring, embedding_array
from curate.sources.parquet import Location
from curate.storage.tables import rows_table
from schemas import tables


@dataclass
class PartResults:
    """Grows by one batch at a time; `part_files` makes the tables of a whole one."""

    part: Part
    images: list[tuple[str, Location, DecodedFacts]] = field(default_factory=list)
    dropped: list[DroppedImage] = field(default_factory=list)
    matched: list[tuple[str, str]] = field(default_factory=list)  # (prompt_id, image_uid) of each score
    embeddings: list[dict[str, torch.Tensor]] = field(default_factory=list)
    scores: list[dict[str, np.ndarray]] = field(default_factory=list)


def part_files(results: PartResults, scoring: Scoring) -> dict[str, tuple[pa.Table, pa.Schema]]:
    """Table name -> the part's rows and the schema to write them in."""
    return {
        "images": (
            _images(results, scoring),
            tables.with_embeddings(tables.IMAGES, scoring.dimensions, pa.float16()),
        ),
        "scores": (_scores(results, scoring), tables.with_scores(tables.SCORES, list(scoring.heads))),
        "dropped": (rows_table([_dropped_row(one) for one in results.dropped], tables.DROPPED), tables.DROPPED),
    }


def _images(results: PartResults, scoring: Scoring) -> pa.Table:
    table = rows_table([_image_row(*one) for one in results.images], tables.IMAGES)
    for tower, dimension in scoring.dimensions.items():
        values = torch.cat([torch.empty(0, dimension), *(batch[tower] for batch in results.embeddings)])
        table = table.append_column(tables.embedding_column(tower), embedding_array(values, pa.float16()))
    return table


def _scores(results: PartResults, scoring: Scoring) -> pa.Table:
    """One row for each prompt that an image is paired with."""
    columns = {
        "prompt_id": pa.array([prompt_id for prompt_id, _ in results.matched], pa.string()),
        "image_uid": pa.array([image_uid for _, image_uid in results.matched], pa.string()),
    }
    for scorer in scoring.heads:
        values = np.concatenate([np.empty(0, np.float32), *(batch[scorer] for batch in results.scores)])
        columns[tables.score_column(scorer)] = pa.array(values, pa.float32())
    return pa.table(columns)


def _image_row(image_uid: str, location: Location, facts: DecodedFacts) -> dict[str, object]:
    return {
        "image_uid": image_uid,
        **facts._asdict(),
        "source_file": location.file,
        "source_row_group": location.row_group,
        "source_row": location.row,
        "source_side": location.side,
    }


def _dropped_row(one: DroppedImage) -> dict[str, object]:
    return {
        "stage": "embed",
        "pair_id": None,
        "image_uid": one.image_uid,
        "reason": one.reason,
        "detail": f"{one.file} row group {one.row_group} row {one.row} image {one.side}: {one.detail}",
    }
