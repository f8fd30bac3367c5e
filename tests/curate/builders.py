"""Small preference data sets in Pick-a-Pic's columns, made in code, and what several tests do alike."""

import io
import os
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from curate.errors import RunError

MODELS = os.environ.get("PAIRSIEVE_TEST_MODELS", "demo")
CONTROL_UID = "767c0473-32cf-4d8b-9d82-25412a5f7f6d"


@dataclass(frozen=True)
class Outcome:
    """What a command left: exit code, stdout, stderr."""

    code: int
    out: str
    err: str


def picture_bytes(seed: int, size: tuple[int, int] = (64, 64), form: str = "JPEG") -> bytes:
    """A smooth random picture, encoded; equal seeds give equal bytes."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(buffer, form)
    return buffer.getvalue()


def pair_row(index: int, **changes: Any) -> dict[str, Any]:
    """One judged row in Pick-a-Pic's columns: images `index` and `index + 1` under prompt `index // 4`."""
    row: dict[str, Any] = {
        "caption": f"a red circle number {index // 4}",
        "image_0_uid": f"image-{index}",
        "image_1_uid": f"image-{index + 1}",
        "jpg_0": picture_bytes(index),
        "jpg_1": picture_bytes(index + 1),
        "model_0": "alpha",
        "model_1": "beta",
        "label_0": float(index % 2),
        "label_1": float(1 - index % 2),
        "has_label": True,
        "user_id": index % 3,
        "ranking_id": index,
    }
    return row | changes


PICKAPIC = pa.schema(
    [
        ("caption", pa.string()),
        ("image_0_uid", pa.string()),
        ("image_1_uid", pa.string()),
        ("jpg_0", pa.binary()),
        ("jpg_1", pa.binary()),
        ("model_0", pa.string()),
        ("model_1", pa.string()),
        ("label_0", pa.float64()),
        ("label_1", pa.float64()),
        ("has_label", pa.bool_()),
        ("user_id", pa.int64()),
        ("ranking_id", pa.int64()),
    ]
)


def write_pairs(path: Path, rows: Iterable[dict[str, Any]], row_group_size: int = 5) -> Path:
    """Rows as one Parquet file with small row groups."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows), schema=PICKAPIC), path, row_group_size=row_group_size)
    return path


def claims_at_once(claim: Callable[[dict[str, Any]], bool]) -> list[bool | str]:
    """What came of eight claims of one run, each under its own `number`: the answer, or why it was refused."""
    outcomes: list[bool | str] = []
    ready = threading.Barrier(8)

    def attempt(number: int) -> None:
        ready.wait()
        try:
            outcomes.append(claim({"number": number}))
        except RunError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=attempt, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes
