"""Shards hold the source's own bytes, the same on every run, and any reader opens them."""

import gc
import hashlib
import io
import json
import tarfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import webdataset
from PIL import Image

from curate.errors import CurateError
from schemas import shards
from tests.curate.builders import MODELS, Outcome, pair_row, picture_bytes, write_pairs

Curate = Callable[..., Outcome]


def make_ranking(curate: Curate, tmp_path: Path, rows: list[dict[str, Any]], top: str = "1.0") -> Path:
    """Embed and rank; returns the run directory."""
    file, run = write_pairs(tmp_path / "train.parquet", rows), tmp_path / "run"
    done = curate(
        "embed", "--run", run, "--manifest", "pickapic_v2", "--source", file, "--models", MODELS, "--scorers", "clip"
    )
    assert done.code == 0, done.err
    done = curate("rank", "--run", run, "--top", top, "--psi", "clip")
    assert done.code == 0, done.err
    return run


def members(run: Path) -> dict[str, bytes]:
    """Every member of every shard, in order."""
    found = {}
    for path in sorted((run / "shards").glob("*.tar")):
        with tarfile.open(path) as tar:
            found.update({item.name: tar.extractfile(item).read() for item in tar})  # type: ignore[union-attr]
    return found


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    return [pair_row(i) for i in range(8)]


def test_members_are_the_sources_bytes_in_rank_order(
    curate: Curate, tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    run = make_ranking(curate, tmp_path, rows)
    assert curate("export-shards", "--run", run, "--pairs-per-shard", 3).code == 0
    found = members(run)
    by_ranking_id = {row["ranking_id"]: row for row in rows}
    seen = []
    for rank in range(1, 9):
        key = f"{rank:09d}"
        meta = json.loads(found[f"{key}.json"])
        row = by_ranking_id[meta["source"]["row"] + 5 * meta["source"]["row_group"]]
        preferred, rejected = ("jpg_0", "jpg_1") if row["label_0"] == 1.0 else ("jpg_1", "jpg_0")
        assert found[f"{key}.preferred.jpg"] == row[preferred]
        assert found[f"{key}.rejected.jpg"] == row[rejected]
        assert found[f"{key}.txt"].decode() == row["caption"]
        assert tuple(meta) == shards.JSON_FIELDS
        assert meta["rank"] == rank
        seen.append(meta["quality"])
    assert seen == sorted(seen, reverse=True)
    assert len(found) == 4 * 8


def test_the_index_states_every_shard(curate: Curate, tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    run = make_ranking(curate, tmp_path, rows, top="7")
    curate("export-shards", "--run", run, "--pairs-per-shard", 3)
    index = json.loads((run / "shards" / "shards.json").read_text())
    assert tuple(index) == shards.INDEX_FIELDS
    assert [entry["samples"] for entry in index["shards"]] == [3, 3, 1]
    assert index["pairs"] == 7
    assert index["ranking"]["base_pairs"] == 8
    assert index["extension"] == "jpg"
    for entry in index["shards"]:
        data = (run / "shards" / entry["file"]).read_bytes()
        assert len(data) == entry["bytes"]
        assert hashlib.sha256(data).hexdigest() == entry["sha256"]


def test_two_exports_are_byte_identical(curate: Curate, tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    exports = []
    for name, order in (("one", 1), ("two", -1)):
        run = make_ranking(curate, tmp_path / name, rows[::order] if order == 1 else rows, top="5")
        curate("export-shards", "--run", run)
        curate("export-shards", "--run", run, "--output", tmp_path / name / "again")
        exports += [
            (run / "shards" / "pairs-000000.tar").read_bytes(),
            (tmp_path / name / "again" / "pairs-000000.tar").read_bytes(),
        ]
    assert len(set(exports)) == 1


def test_a_smaller_export_removes_the_tars_of_the_larger(
    curate: Curate, tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    run = make_ranking(curate, tmp_path, rows)
    curate("export-shards", "--run", run, "--pairs-per-shard", 2)
    (run / "shards" / "notes.txt").write_text("the user's own")
    curate("export-shards", "--run", run, "--pairs-per-shard", 5)
    assert sorted(path.name for path in (run / "shards").iterdir()) == [
        "README.md",
        "notes.txt",
        "pairs-000000.tar",
        "pairs-000001.tar",
        "shards.json",
    ]


def test_one_format_gives_its_extension_and_mixed_formats_give_jpg(curate: Curate, tmp_path: Path) -> None:
    def png_row(index: int) -> dict[str, Any]:
        sides = {f"jpg_{side}": picture_bytes(index + side, form="PNG") for side in (0, 1)}
        return pair_row(index, **sides)

    pure = make_ranking(curate, tmp_path / "pure", [png_row(i) for i in range(3)])
    mixed = make_ranking(curate, tmp_path / "mixed", [png_row(0), pair_row(4)])
    for run, extension in ((pure, "png"), (mixed, "jpg")):
        curate("export-shards", "--run", run)
        assert {name.split(".", 1)[1] for name in members(run)} == {
            "json", "txt", f"preferred.{extension}", f"rejected.{extension}",
        }  # fmt: skip
    formats = {
        json.loads(data)["preferred"]["format"] for name, data in members(mixed).items() if name.endswith("json")
    }
    assert formats == {"PNG", "JPEG"}


def test_webdataset_and_hugging_face_read_the_shards(curate: Curate, tmp_path: Path) -> None:
    rows = [pair_row(i) for i in range(6)] + [pair_row(9, jpg_0=picture_bytes(9, form="PNG"))]
    run = make_ranking(curate, tmp_path, rows)
    curate("export-shards", "--run", run, "--pairs-per-shard", 4)
    paths = [str(path) for path in sorted((run / "shards").glob("*.tar"))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # webdataset leaves the tars for the collector to close
        samples = list(webdataset.WebDataset(paths, shardshuffle=False, empty_check=False).decode("pil"))
        gc.collect()
    loaded = datasets.load_dataset("webdataset", data_files=paths, split="train", cache_dir=str(tmp_path / "cache"))
    assert len(samples) == len(loaded) == 7
    found = members(run)
    for sample, row in zip(samples, loaded, strict=True):
        expected = Image.open(io.BytesIO(found[f"{sample['__key__']}.preferred.jpg"])).convert("RGB")
        assert sample["preferred.jpg"].tobytes() == expected.tobytes()
        assert row["preferred.jpg"].convert("RGB").tobytes() == expected.tobytes()
        assert sample["txt"] == row["txt"]
        assert sample["json"]["pair_id"] == row["json"]["pair_id"]


def test_an_image_that_changed_since_it_was_scored_is_refused(
    curate: Curate, tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    run = make_ranking(curate, tmp_path, rows)
    file = tmp_path / "train.parquet"
    size = file.stat().st_size
    for index, row in enumerate(rows):
        row["jpg_0"] = row["jpg_0"][:-3] + bytes([index, 1, 2])
    write_pairs(file, rows)
    stopped = curate("export-shards", "--run", run)
    assert stopped.code == 1
    if file.stat().st_size == size:
        assert "is not the one that was scored; embed again" in stopped.err
    else:
        assert "changed since it was embedded" in stopped.err
    assert not (run / "shards" / "shards.json").exists()


@pytest.mark.parametrize("where", ["curate.export.layouts.shards._Hashed.write", "os.pwrite"])
def test_a_failed_export_leaves_no_index(
    curate: Curate, tmp_path: Path, rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """The disk is full for a tar, or for the store, which is removed."""
    run = make_ranking(curate, tmp_path, rows)
    assert curate("export-shards", "--run", run).code == 0

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(where, full)
    stopped = curate("export-shards", "--run", run, "--pairs-per-shard", 3)
    assert stopped.code == 1
    assert "No space left on device" in stopped.err
    assert not (run / "shards" / "shards.json").exists()
    assert sorted(path.name for path in (run / "shards").iterdir()) == [
        "README.md",
        "pairs-000000.tar",
        "unfinished.json",
    ]


def test_an_unknown_ranking_names_the_known(curate: Curate, tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    run = make_ranking(curate, tmp_path, rows)
    stopped = curate("export-shards", "--run", run, "--name", "other")
    assert stopped.code == CurateError.exit_code
    assert stopped.err == f"curate: no ranking 'other' in {run}; there are default; run `curate rank` first\n"
