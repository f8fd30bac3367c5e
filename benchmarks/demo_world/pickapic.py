"""Rounds as Parquet in Pick-a-Pic's own columns, order and types."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.demo_world.tournaments import Round

SCHEMA = pa.schema(
    [
        ("are_different", pa.bool_()),
        ("best_image_uid", pa.string()),
        ("caption", pa.string()),
        ("created_at", pa.timestamp("ns")),
        ("has_label", pa.bool_()),
        ("image_0_uid", pa.string()),
        ("image_0_url", pa.string()),
        ("image_1_uid", pa.string()),
        ("image_1_url", pa.string()),
        ("jpg_0", pa.binary()),
        ("jpg_1", pa.binary()),
        ("label_0", pa.float64()),
        ("label_1", pa.float64()),
        ("model_0", pa.string()),
        ("model_1", pa.string()),
        ("ranking_id", pa.int64()),
        ("user_id", pa.int64()),
        ("num_example_per_prompt", pa.int64()),
        ("__index_level_0__", pa.int64()),
    ]
)
FILES = 3
ROW_GROUP_ROWS = 800
NO_BEST_IMAGE = "none"  # what best_image_uid says on a tie
FIRST_MOMENT = datetime(2023, 3, 1, tzinfo=UTC).replace(tzinfo=None)


def write_pairs(folder: Path, rounds: Sequence[Round], pictures: Mapping[str, bytes]) -> list[Path]:
    """Cut the rounds into FILES files; a prompt's rounds stay together, so that repeats compress."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = pairs_rows(rounds, pictures)
    size = -(-len(rows) // FILES)
    paths = []
    for index in range(FILES):
        paths.append(folder / f"train-{index:05d}-of-{FILES:05d}.parquet")
        table = pa.Table.from_pylist(rows[index * size : (index + 1) * size], schema=SCHEMA)
        # One page a chunk and a wide window let zstd find the picture that stayed for the next round.
        pq.write_table(
            table,
            paths[-1],
            row_group_size=ROW_GROUP_ROWS,
            compression="zstd",
            compression_level=19,
            dictionary_pagesize_limit=1 << 23,
            data_page_size=1 << 23,
        )
    return paths


def pairs_rows(rounds: Sequence[Round], pictures: Mapping[str, bytes]) -> list[dict[str, Any]]:
    """One dictionary a round, keyed by SCHEMA's names."""
    per_prompt = Counter(round_.prompt for round_ in rounds)
    return [_row(index, round_, pictures, per_prompt[round_.prompt]) for index, round_ in enumerate(rounds)]


def _row(index: int, round_: Round, pictures: Mapping[str, bytes], per_prompt: int) -> dict[str, Any]:
    judged = round_.label_0 is not None
    label_0 = round_.label_0 if round_.label_0 is not None else 0.5
    best = {1.0: round_.image_uids[0], 0.0: round_.image_uids[1]}.get(label_0, NO_BEST_IMAGE)
    sides: dict[str, Any] = {}
    for side in (0, 1):
        uid = round_.image_uids[side]
        sides |= {
            f"image_{side}_uid": uid,
            f"image_{side}_url": "",
            f"jpg_{side}": pictures[uid],
            f"model_{side}": round_.models[side],
        }
    return sides | {
        "are_different": True,
        "best_image_uid": best,
        "caption": round_.prompt,
        "created_at": FIRST_MOMENT + timedelta(seconds=97 * round_.job + 7 * index),
        "has_label": judged,
        "label_0": label_0,
        "label_1": 1.0 - label_0,
        "ranking_id": index + 1,
        "user_id": round_.user_id,
        "num_example_per_prompt": per_prompt,
        "__index_level_0__": index,
    }
