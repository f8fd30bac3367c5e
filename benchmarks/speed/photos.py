"""Preference data sets of any size with pictures that cost what real ones cost, equal for equal seeds.

A picture is smooth shapes at three scales and grain: 512 squared at quality 90 is some 85 kB, as Pick-a-Pic's are.
"""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

PAIRS_PER_PROMPT = 16
SCALES = {4: 0.6, 16: 0.25, 64: 0.15}
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("caption", "image_0_uid", "image_1_uid")),
        *((name, pa.binary()) for name in ("jpg_0", "jpg_1")),
        *((name, pa.string()) for name in ("model_0", "model_1")),
        *((name, pa.float64()) for name in ("label_0", "label_1")),
        ("has_label", pa.bool_()),
        *((name, pa.int64()) for name in ("user_id", "ranking_id")),
    ]
)


def photo(seed: int, side_px: int = 512) -> bytes:
    """One JPEG."""
    rng = np.random.default_rng(seed)
    pixels = rng.normal(0, 6, (side_px, side_px, 1)).astype(np.float32) + np.zeros(3, np.float32)
    for cells, weight in SCALES.items():
        coarse = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        pixels += weight * np.asarray(coarse.resize((side_px, side_px), Image.Resampling.BICUBIC), np.float32)
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def unique_pairs(images: list[bytes], prompts: int) -> Iterator[dict[str, object]]:
    """Every image once, two to a pair, over a few prompts."""
    for index in range(len(images) // 2):
        yield _row(index, f"prompt {index % prompts}", (2 * index, 2 * index + 1), images)


def tournament_pairs(images: list[bytes], prompts: int) -> Iterator[dict[str, object]]:
    """As Pick-a-Pic: 16 pairs a prompt, the image that wins stays, so that 17 images fill 32 places (x1.88)."""
    for index in range(prompts * PAIRS_PER_PROMPT):
        left = index + index // PAIRS_PER_PROMPT
        yield _row(index, f"prompt number {index // PAIRS_PER_PROMPT}", (left, left + 1), images)


def write_source(path: Path, rows: Iterator[dict[str, object]], row_group_size: int = 100) -> Path:
    """Rows as one Parquet file in Pick-a-Pic's columns, group by group."""
    with pq.ParquetWriter(path, SCHEMA) as writer:
        group: list[dict[str, object]] = []
        for row in rows:
            group.append(row)
            if len(group) == row_group_size:
                writer.write_table(pa.Table.from_pylist(group, SCHEMA))
                group = []
        if group:
            writer.write_table(pa.Table.from_pylist(group, SCHEMA))
    return path


def _row(index: int, prompt: str, sides: tuple[int, int], images: list[bytes]) -> dict[str, object]:
    return {
        "caption": prompt,
        "image_0_uid": f"image-{sides[0]}",
        "image_1_uid": f"image-{sides[1]}",
        "jpg_0": images[sides[0]],
        "jpg_1": images[sides[1]],
        "model_0": "alpha",
        "model_1": "beta",
        "label_0": float(index % 2),
        "label_1": float(1 - index % 2),
        "has_label": True,
        "user_id": 0,
        "ranking_id": index,
    }
