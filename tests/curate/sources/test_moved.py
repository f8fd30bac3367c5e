"""A source that lies elsewhere than when it was embedded: nothing is computed again, and every reader finds it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import duckdb

from curate.pages.pictures import originals
from curate.storage.run import Run
from tests.curate.builders import MODELS, Outcome, pair_row, write_pairs

Curate = Callable[..., Outcome]


def embed(source: object, run: Path) -> list[object]:
    settings = ["--manifest", "pickapic_v2", "--models", MODELS, "--device", "cpu", "--part-images", 8]
    return ["embed", *settings, "--source", source, "--run", run, "--json"]


def test_a_source_that_moved(curate: Curate, tmp_path: Path) -> None:
    old, new, run = tmp_path / "old", tmp_path / "new", tmp_path / "run"
    for name, first in (("a/0.parquet", 0), ("b/0.parquet", 20)):
        write_pairs(old / name, (pair_row(first + index) for index in range(10)))
    assert curate(*embed(old / "*" / "*.parquet", run)).code == 0
    curate("rank", "--run", run, "--top", "6")
    pairs = (run / "pairs.parquet").read_bytes()
    old.rename(new)
    (run / "parts" / "part-00001.json").unlink()
    assert json.loads(curate(*embed(new / "*" / "*.parquet", run)).out)["parts_computed"] == 1
    assert (run / "pairs.parquet").read_bytes() == pairs
    assert curate("export-shards", "--run", run).code == 0  # the run has noted where it lies
    with duckdb.connect(str(run / "curation.duckdb"), read_only=True) as connection:
        assert originals(Run(run), connection, ["image-3"])["image-3"] == pair_row(3)["jpg_0"]

    newest = shutil.copytree(new, tmp_path / "newest")
    shutil.rmtree(new)
    outcome = curate("export-shards", "--run", run, "--output", tmp_path / "shards")
    assert (outcome.code, outcome.err.splitlines()[-1]) == (
        1, f"curate: {new}/a/0.parquet is not there; correct --source, or put it back"
    )  # fmt: skip
    moved = ["export-shards", "--run", run, "--output", tmp_path / "shards", "--source", newest / "*" / "*.parquet"]
    outcome = curate(*moved)
    assert outcome.code == 0
    assert "note:" not in outcome.err
    assert {path.name: path.read_bytes() for path in (tmp_path / "shards").glob("*.tar")} == {
        path.name: path.read_bytes() for path in (run / "shards").glob("*.tar")
    }


def test_other_files_are_not_the_source_that_moved(curate: Curate, source_file: Path, tmp_path: Path) -> None:
    """Of another name, of another size, and of the same size with other labels."""
    run, other = tmp_path / "run", tmp_path / "other" / source_file.name
    curate(*embed(source_file, run))
    curate("rank", "--run", run, "--top", "6")
    rows = [pair_row(index) for index in range(20)]
    for source, words in (
        (write_pairs(other, rows[:-1]), "when it was embedded; put it back"),
        (write_pairs(tmp_path / "x.parquet", rows), f"1 files that are not those of {run}: {source_file.name}"),
    ):
        outcome = curate("export-shards", "--run", run, "--source", source)
        assert (outcome.code, words in outcome.err) == (1, True), outcome.err
    assert "was made under other settings: files." in curate(*embed(tmp_path / "x.parquet", run)).err
    rows[0] |= {"label_0": 1.0, "label_1": 0.0}
    rows[1] |= {"label_0": 0.0, "label_1": 1.0}
    assert write_pairs(other, rows).stat().st_size == source_file.stat().st_size
    outcome = curate(*embed(other, run))
    assert (outcome.code, outcome.err.splitlines()[-1]) == (
        1, f"curate: {other} and what is with it are not those of {run}; correct --source"
    )  # fmt: skip
