"""What lies in data_manifests/demo is what its manifest and its README promise."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.demo_world.pickapic import SCHEMA
from benchmarks.demo_world.prompts import choose_prompts
from benchmarks.demo_world.scenes import parse_caption
from benchmarks.demo_world.seeds import SEEDS
from benchmarks.demo_world.tournaments import CONTROL_UID
from benchmarks.demo_world.truth import truth_of_bytes

DEMO = Path(__file__).parents[2] / "data_manifests" / "demo"
FILES = sorted((DEMO / "pairs").glob("train-*.parquet"))


@pytest.fixture(scope="module")
def pairs() -> pa.Table:
    return pa.concat_tables(pq.read_table(path) for path in FILES)


@pytest.fixture(scope="module")
def labels(pairs: pa.Table) -> np.ndarray:
    return pairs["label_0"].to_numpy()


@pytest.fixture(scope="module")
def usable(pairs: pa.Table, labels: np.ndarray) -> np.ndarray:
    """Rows that are judged, not tied, and show no control image."""
    control = np.array([CONTROL_UID in pair for pair in uid_pairs(pairs)])
    return pairs["has_label"].to_numpy(zero_copy_only=False) & (labels != 0.5) & ~control


def uid_pairs(pairs: pa.Table) -> list[tuple[str, str]]:
    return list(zip(pairs["image_0_uid"].to_pylist(), pairs["image_1_uid"].to_pylist(), strict=True))


def test_size_is_within_the_limit() -> None:
    assert sum(path.stat().st_size for path in DEMO.rglob("*") if path.is_file()) <= 15_000_000


def test_files_have_pick_a_pics_columns_and_several_row_groups() -> None:
    assert len(FILES) >= 3
    for path in FILES:
        assert pq.read_schema(path).remove_metadata() == SCHEMA
        assert pq.ParquetFile(path).num_row_groups >= 2


def test_counts(pairs: pa.Table, usable: np.ndarray) -> None:
    counts = json.loads((DEMO / "world.json").read_text(encoding="utf-8"))["counts"]
    assert counts["rows"] == len(pairs)
    assert counts["preferences"] == usable.sum() >= 5_000
    prompts = set(pairs.filter(pa.array(usable))["caption"].to_pylist())
    assert counts["prompts_of_preferences"] == len(prompts) >= 500


def test_held_out_prompts_are_unseen_captions(pairs: pa.Table) -> None:
    heldout = (DEMO / "prompts" / "heldout.txt").read_text(encoding="utf-8").splitlines()
    assert len(set(heldout)) == len(heldout) == 200
    assert not set(heldout) & set(pairs["caption"].to_pylist())
    assert heldout == choose_prompts(SEEDS["prompts"])[1]
    for prompt in heldout:
        parse_caption(prompt)


def test_labels_and_best_image_agree(pairs: pa.Table, labels: np.ndarray) -> None:
    np.testing.assert_array_equal(labels + pairs["label_1"].to_numpy(), 1.0)
    assert set(labels.tolist()) == {0.0, 0.5, 1.0}
    best = pairs["best_image_uid"].to_pylist()
    for label, uids, uid in zip(labels.tolist(), uid_pairs(pairs), best, strict=True):
        if label == 0.5:
            assert uid not in uids
        else:
            assert uid == uids[0 if label == 1.0 else 1]


def test_images_repeat_with_the_same_bytes(pairs: pa.Table) -> None:
    shown = Counter(uid for pair in uid_pairs(pairs) for uid in pair if uid != CONTROL_UID)
    assert 2 * len(pairs) / len(shown) > 1.6  # slots per unique image; Pick-a-Pic has about 1.8
    seen: dict[str, bytes] = {}
    for side in (0, 1):
        uids, encoded = pairs[f"image_{side}_uid"].to_pylist(), pairs[f"jpg_{side}"].to_pylist()
        assert all(seen.setdefault(uid, data) == data for uid, data in zip(uids, encoded, strict=True))
    assert {data[:4] for data in seen.values()} == {b"\x89PNG", b"\xff\xd8\xff\xe0"}


def test_the_control_image_is_in_about_a_tenth_of_the_rows(pairs: pa.Table) -> None:
    assert 0.07 < np.mean([CONTROL_UID in pair for pair in uid_pairs(pairs)]) < 0.13


def test_stated_agreement_with_the_truth(pairs: pa.Table, usable: np.ndarray) -> None:
    """On 400 pairs, within four standard errors of what world.json says of all."""
    stated = json.loads((DEMO / "world.json").read_text(encoding="utf-8"))["judgements_agreeing_with_truth"]
    rows = pairs.filter(pa.array(usable)).slice(0, 400).to_pylist()
    agreeing = [
        (truth_of_bytes(row["jpg_0"], row["caption"]) > truth_of_bytes(row["jpg_1"], row["caption"]))
        == (row["label_0"] == 1.0)
        for row in rows
    ]
    assert np.mean(agreeing) == pytest.approx(stated, abs=0.1)
