"""`--parity`: the run's own scores beside exact ones, of whole pairs, by the real ranking."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.embed.options import ComputeOptions
from curate.embed.parity import difference, measure_parity, overlap, sample
from curate.embed.stage import embed_source
from curate.errors import RunError
from curate.models.model_set import ModelSet, load_model_set
from curate.models.scoring import load_scoring
from curate.sources.manifest import load_manifest
from curate.sources.opening import open_source
from curate.sources.parquet import Source
from curate.storage.run import Run
from curate.storage.tables import write_table
from tests.curate.builders import MODELS, Outcome, pair_row, picture_bytes, write_pairs

SCORERS = ["clip", "pickscore", "aesthetic"]


@pytest.fixture(scope="module")
def models() -> ModelSet:
    return load_model_set(MODELS)


@pytest.fixture
def source(tmp_path: Path) -> Source:
    """Twenty pairs of 200 px JPEGs over 21 images; the image of the first pair's left side is broken."""
    rows = [pair_row(i, jpg_0=picture_bytes(i, (200, 200)), jpg_1=picture_bytes(i + 1, (200, 200))) for i in range(20)]
    rows[0]["jpg_0"] = b"broken"
    return open_source(load_manifest("pickapic_v2"), None, [str(write_pairs(tmp_path / "s.parquet", rows))])


def embedded(root: Path, source: Source, models: ModelSet, options: ComputeOptions) -> Run:
    scoring = load_scoring(models, models.choose(SCORERS), options.device, options.precision)
    embed_source(Run(root), source, scoring, options)
    return Run(root)


def report_of(run: Run, source: Source, models: ModelSet, options: ComputeOptions, images: int) -> dict[str, Any]:
    return measure_parity(run, source, models, models.choose(SCORERS), options, images)


def test_a_float32_run_differs_from_itself_by_nothing(tmp_path: Path, source: Source, models: ModelSet) -> None:
    options = ComputeOptions("cpu", "fp32")
    run = embedded(tmp_path / "run", source, models, options)
    report = report_of(run, source, models, options, 100)
    assert (report["images"], report["pairs"]) == (20, 19)  # the broken image takes its one pair with it
    for found in report["scorers"].values():
        assert found["max"] < 1e-4 * found["spread"] + 1e-5
    assert report["top"] == {"share": 0.0533, "pairs": 1, "kept": 1}
    assert json.loads((run.root / "parity.json").read_text()) == report


def test_half_precision_and_scaled_decoding_differ_and_it_is_told(
    tmp_path: Path, source: Source, models: ModelSet
) -> None:
    options = ComputeOptions("cpu", "bf16", decode="scaled")
    run = embedded(tmp_path / "run", source, models, options)
    report = report_of(run, source, models, options, 7)
    assert (report["precision"], report["decode"], report["compiled"]) == ("bf16", "scaled", False)
    assert (report["images"], report["pairs"]) == (7, 6)
    for name in SCORERS:
        assert 0 < report["scorers"][name]["mean"] <= report["scorers"][name]["max"]


def test_the_sample_is_the_images_of_the_first_pairs(tmp_path: Path, source: Source, models: ModelSet) -> None:
    run = embedded(tmp_path / "run", source, models, ComputeOptions("cpu", "fp32"))
    pairs, located = sample(run, 4)
    assert pairs["image_0_uid"].to_pylist() == ["image-1", "image-2", "image-3"]
    assert list(located) == ["image-1", "image-2", "image-3", "image-4"]
    stored = {row["image_uid"]: row["source_row"] for row in pq.read_table(run.table("images")).to_pylist()}
    assert all(location.row == stored[uid] for uid, location in located.items())
    with pytest.raises(RunError, match=r"^--parity 1: no pair of .* has both of its images; nothing to compare$"):
        sample(run, 1)


def test_difference_by_hand() -> None:
    stored = pa.table({"clip_score": pa.array([1.0, 2.0, 4.0], pa.float32())})
    exact = pa.table({"clip_score": pa.array([1.5, 2.0, 3.0], pa.float32())})
    found = difference(stored, exact, "clip")
    assert (found["max"], found["mean"]) == (1.0, 0.5)
    assert found["spread"] == pytest.approx(np.std([1.5, 2.0, 3.0]))


def test_overlap_counts_the_best_pairs_that_stay(tmp_path: Path) -> None:
    """Forty pairs of a winner and a loser each: two are the best 5.33 %; one of them moves."""
    file = write_pairs(tmp_path / "s.parquet", [pair_row(0)])
    models = load_model_set(MODELS)
    source = open_source(load_manifest("pickapic_v2"), None, [str(file)])
    run = embedded(tmp_path / "run", source, models, ComputeOptions("cpu", "fp32"))
    row = pq.read_table(run.pairs).to_pylist()[0]
    rows = [
        row | {"pair_id": f"{i:02d}", "image_0_uid": f"w{i:02d}", "image_1_uid": f"l{i:02d}", "preference": 0}
        for i in range(40)
    ]
    pairs = pa.Table.from_pylist(rows, schema=pq.read_schema(run.pairs))
    uids = [row[f"image_{side}_uid"] for row in rows for side in (0, 1)]
    values = np.array([[100 + i, 40 - i] for i in range(40)], np.float32).reshape(-1)
    table = {"prompt_id": [row["prompt_id"]] * 80, "image_uid": uids, "clip_score": pa.array(values)}
    moved = values.copy()
    moved[[2 * 39, 2 * 39 + 1]] = 70.0  # the best pair's sides are alike now
    texts = {row["prompt_id"]: "a prompt"}
    exact, stored = pa.table(table), pa.table(table | {"clip_score": pa.array(moved)})
    assert overlap(pairs, texts, stored, exact, ["clip"]) == {"share": 0.0533, "pairs": 2, "kept": 1}
    assert overlap(pairs, texts, exact, exact, ["clip"]) == {"share": 0.0533, "pairs": 2, "kept": 2}
    ties = pa.Table.from_pylist([one | {"preference": None} for one in rows], schema=pairs.schema)
    assert overlap(ties, texts, stored, exact, ["clip"]) is None


def test_a_source_that_changed_is_found_out(tmp_path: Path, source: Source, models: ModelSet) -> None:
    options = ComputeOptions("cpu", "fp32")
    run = embedded(tmp_path / "run", source, models, options)
    images = pq.read_table(run.table("images"))
    broken = images.set_column(
        images.schema.get_field_index("source_side"), images.schema.field("source_side"), pa.array([0] * 20, pa.int8())
    ).set_column(images.schema.get_field_index("source_row"), images.schema.field("source_row"), pa.array([0] * 20))
    for file in run.table("images").glob("*.parquet"):
        write_table(broken, file, broken.schema)
    with pytest.raises(RunError, match=r"was scored, and now cannot be decoded: not an image: 6 bytes"):
        report_of(run, source, models, options, 10)


def test_a_run_with_parts_left_says_its_parity_too(
    curate: Callable[..., Outcome], source_file: Path, tmp_path: Path
) -> None:
    data = ("--manifest", "pickapic_v2", "--models", MODELS, "--source", source_file, "--device", "cpu")
    parts = ("--part-images", 7, "--part-range", "0:2", "--parity", 4, "--run", tmp_path / "run")
    lines = curate("embed", *data, *parts).out.splitlines()
    assert lines[0].startswith("parts   2 computed, 2 of 4 left, ")
    assert lines[1].startswith("parity  4 images, ")
