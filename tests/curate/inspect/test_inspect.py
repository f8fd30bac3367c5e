"""`curate inspect`: what a set is, which shipped manifest fits, and a manifest to begin with that embeds."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from curate.errors import CurateError
from curate.inspect import inspect
from curate.sources.manifest import load_manifest
from tests.curate.builders import MODELS, Outcome, pair_row, picture_bytes, write_pairs
from tests.curate.sources.layouts.test_shipped import SETS


@pytest.mark.parametrize("name", sorted(set(SETS) - {"hpdv3pp"}))
def test_a_shipped_set_is_known_by_its_columns(tmp_path: Path, name: str) -> None:
    given = SETS[name].write(tmp_path)
    found = inspect(str(given[given.index("--source") + 1]))
    assert name in found["fits"]
    assert len(found["fits"]) <= 2  # hpdv2 and hpdv2_test differ by what one column means


def test_json_lines_with_a_folder(curate: Callable[..., Outcome], tmp_path: Path) -> None:
    for place in range(3):
        (tmp_path / f"{place}.jpg").write_bytes(picture_bytes(place))
    rows = [{"caption": "p", "win": "0.jpg", "lose": "1.jpg"}, {"caption": "q", "win": "1.jpg", "lose": "2.jpg"}]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    outcome = curate("inspect", tmp_path, "--write", tmp_path / "my.toml")
    assert outcome.code == 0, outcome.err
    assert f"2 rows in 1 files (jsonl), {tmp_path}/train.jsonl" in outcome.out
    assert "  caption  VARCHAR: p, q" in outcome.out
    assert f"3 pictures in {tmp_path}" in outcome.out
    assert (tmp_path / "my.toml").read_text().count("# a guess") == 3
    embedded = curate(
        *("embed", "--manifest", tmp_path / "my.toml", "--models", MODELS, "--scorers", "clip"),
        *("--run", tmp_path / "run", "--json"),
    )
    assert embedded.code == 0, embedded.err
    assert json.loads(embedded.out)["pairs"] == 2
    assert curate("inspect", tmp_path, "--write", tmp_path / "my.toml").code == 1


GUESSES = {
    "two pictures and a label": (
        [{"prompt": "p", "image1": "a", "image2": "b", "label": 1}],
        {"prompt": "prompt", "image_0_path": "image1", "image_1_path": "image2", "label_0": "label"},
    ),
    "votes": (
        [{"prompt": "p", "image_0": "a", "image_1": "b", "votes_image1": 3, "votes_image2": 4}],
        {
            "prompt": "prompt", "image_0_path": "image_0", "image_1_path": "image_1",
            "votes_0": "votes_image1", "votes_1": "votes_image2",
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", GUESSES)
def test_columns_are_guessed_by_their_names(tmp_path: Path, case: str) -> None:
    rows, columns = GUESSES[case]
    (tmp_path / "x.json").write_text(json.dumps(rows))
    inspect(str(tmp_path / "x.json"), tmp_path / "m.toml")
    assert load_manifest(str(tmp_path / "m.toml")).columns == columns


def test_ranked_pictures_become_candidates(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps([{"prompt": "p", "image_path": ["a", "b"], "rank": [1, 2]}]))
    inspect(str(tmp_path / "x.json"), tmp_path / "m.toml")
    manifest = load_manifest(str(tmp_path / "m.toml"))
    assert manifest.candidates is not None
    assert manifest.query == 'select "prompt" as prompt, "image_path" as image_path, "rank" as rank from source'


def test_pictures_in_a_column_are_no_paths(curate: Callable[..., Outcome], tmp_path: Path) -> None:
    for part in range(2):
        write_pairs(tmp_path / "set" / f"train-{part}.parquet", (pair_row(4 * part + i) for i in range(4)))
    outcome = curate("inspect", tmp_path / "set", "--write", tmp_path / "my.toml")
    assert re.search(r"  jpg_0 +BLOB: \(a picture\), \(a picture\), \(a picture\)", outcome.out)
    assert f"curate embed --manifest pickapic_v2 --source '{tmp_path}/set'" in outcome.out
    columns = load_manifest(str(tmp_path / "my.toml")).columns
    assert (columns["image_0_bytes"], columns["image_1_uid"]) == ("jpg_0", "image_1_uid")
    planned = curate(
        "embed", "--manifest", tmp_path / "my.toml", "--models", MODELS, "--dry-run", "--run", tmp_path / "r"
    )
    assert planned.code == 0, planned.err
    assert json.loads(planned.out)["pairs"] == 8


def test_what_is_no_set_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(picture_bytes(0))
    with pytest.raises(CurateError, match="it holds 1 files, 1 of them pictures"):
        inspect(str(tmp_path))
    with pytest.raises(CurateError, match=r"no file matches .*nothing\*"):
        inspect(str(tmp_path / "nothing*"))
