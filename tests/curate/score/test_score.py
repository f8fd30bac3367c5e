"""`curate score`: the numbers of `curate embed`, without a run."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.curate.builders import MODELS, Outcome, pair_row, picture_bytes, write_pairs

Curate = Callable[..., Outcome]


def test_scores_are_those_of_embed_and_bad_pictures_say_why(curate: Curate, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in (0, 1):
        (folder / f"{i}.jpg").write_bytes(picture_bytes(i))
    (folder / "2.png").write_text("no picture")
    (folder / "notes.txt").write_text("not looked at")
    prompts = ["a red circle number 0", "another"]
    rows = json.loads(
        curate(
            *("score", "--image", folder, "--models", MODELS, "--device", "cpu", "--json"),
            *(word for prompt in prompts for word in ("--prompt", prompt)),
        ).out
    )
    assert [(Path(row["image"]).name, row.get("prompt")) for row in rows] == [
        *((f"{i}.jpg", prompt) for i in (0, 1) for prompt in prompts),
        ("2.png", None),
    ]
    assert rows[-1]["reason"] == "image_unreadable"
    source = write_pairs(tmp_path / "train.parquet", [pair_row(0)])
    curate("embed", "--manifest", "pickapic_v2", "--models", MODELS, "--source", source, "--run", tmp_path / "run")
    query = "select * exclude prompt_id from scores order by image_uid"
    embedded = json.loads(curate("sql", query, "--run", tmp_path / "run", "--json").out)
    for row, same in zip([rows[0], rows[2]], embedded, strict=True):
        for name in ("clip_score", "pickscore_score", "aesthetic_score"):
            assert row[name] == pytest.approx(same[name], rel=1e-5), name


def test_what_cannot_be_scored(curate: Curate, tmp_path: Path) -> None:
    for image, words in ((tmp_path, "no pictures are in it"), (tmp_path / "x.png", "no such file or folder")):
        done = curate("score", "--image", image, "--prompt", "a", "--models", MODELS)
        assert done == Outcome(1, "", f"curate: --image {image}: {words}\n")
    assert curate("score", "--image", tmp_path, "--prompt", " ", "--models", MODELS).code == 2
