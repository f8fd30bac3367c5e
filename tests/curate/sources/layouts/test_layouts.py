"""Sets in other people's layouts through embed, rank and export, with counts worked out by hand."""

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.curate.builders import MODELS, Outcome, picture_bytes
from tests.curate.sources.layouts.test_members import write_tar, write_zip

Curate = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def embedded(curate: Curate, tmp_path: Path, manifest: str, *options: object) -> dict[str, Any]:
    (tmp_path / "m.toml").write_text(f'models = "{MODELS}"\n{manifest}')
    outcome = curate("embed", "--manifest", tmp_path / "m.toml", "--scorers", "clip", "--json", *options)
    assert outcome.code == 0, outcome.err
    return dict(json.loads(outcome.out))


def ranked(curate: Curate, *options: object) -> dict[str, Any]:
    outcome = curate("rank", "--psi", "clip", "--metric", "margin", "--top", "1.0", "--json", *options)
    assert outcome.code == 0, outcome.err
    return dict(json.loads(outcome.out))


def exported(curate: Curate, tmp_path: Path) -> list[dict[str, Any]]:
    outcome = curate("export-shards", "--output", tmp_path / "shards")
    assert outcome.code == 0, outcome.err
    samples = []
    for tar in sorted((tmp_path / "shards").glob("*.tar")):
        with tarfile.open(tar) as opened:
            members = {info.name: opened.extractfile(info).read() for info in opened}  # type: ignore[union-attr]
        for name in sorted(name for name in members if name.endswith(".json")):
            key = name.removesuffix(".json")
            sides = {side: members[f"{key}.{side}.jpg"] for side in ("preferred", "rejected")}
            samples.append({"prompt": members[f"{key}.txt"].decode(), "meta": json.loads(members[name]), **sides})
    return samples


def pictures(count: int, name: str = "images/{}.jpg") -> dict[str, bytes]:
    return {name.format(place): picture_bytes(place) for place in range(count)}


VOTED = [  # image 1 wins, image 0 wins, a tie, a picture that is not there, votes that cannot be
    {"prompt": "a cat", "path1": "images/0.jpg", "path2": "images/1.jpg", "choice_dist": [1, 3], "confidence": 0.9},
    {"prompt": "a dog", "path1": "images/2.jpg", "path2": "images/3.jpg", "choice_dist": [4, 0], "confidence": 0.2},
    {"prompt": "a cow", "path1": "images/0.jpg", "path2": "images/3.jpg", "choice_dist": [2, 2], "confidence": 0.5},
    {"prompt": "a hen", "path1": "images/0.jpg", "path2": "images/9.jpg", "choice_dist": [2, 0], "confidence": 0.5},
    {"prompt": "a fox", "path1": "images/1.jpg", "path2": "images/2.jpg", "choice_dist": [-1, 2], "confidence": 0.5},
]
VOTED_MANIFEST = """
keep = ["confidence"]
images = "{images}"
[splits.train]
files = ["train.json"]
[query]
sql = \"\"\"
select prompt, path1 as image_0_path, path2 as image_1_path, choice_dist[1] as votes_0, choice_dist[2] as votes_1,
    confidence
from source
\"\"\"
"""


@pytest.mark.parametrize(("write", "name"), [(write_tar, "images.tar"), (write_zip, "images.zip")])
def test_json_with_votes_and_an_archive_of_pictures(
    curate: Curate, tmp_path: Path, write: Callable[..., Path], name: str
) -> None:
    (tmp_path / "train.json").write_text(json.dumps(VOTED))
    write(tmp_path / name, pictures(4))
    report = embedded(curate, tmp_path, VOTED_MANIFEST.format(images=name))
    assert (report["source_rows"], report["pairs"], report["images"]) == (5, 4, 5)
    assert (report["dropped_pairs"], report["dropped_images"]) == ({"bad_label": 1}, {"image_missing": 1})

    assert ranked(curate)["base_pairs"] == 2
    assert ranked(curate, "--where", "confidence > 0.5 and strength = 0.75")["base_pairs"] == 1
    assert ranked(curate)["dropped_pairs"]["tie"] == 1
    samples = {sample["prompt"]: sample for sample in exported(curate, tmp_path)}
    assert set(samples) == {"a cat", "a dog"}
    assert (samples["a cat"]["preferred"], samples["a cat"]["rejected"]) == (picture_bytes(1), picture_bytes(0))
    assert (samples["a dog"]["preferred"], samples["a dog"]["rejected"]) == (picture_bytes(2), picture_bytes(3))
    assert '"name": "strength", "dtype": "float64"' in (tmp_path / "shards" / "README.md").read_text()
    assert {prompt: sample["meta"]["strength"] for prompt, sample in samples.items()} == {"a cat": 0.75, "a dog": 1.0}


def test_chosen_and_rejected_columns(curate: Curate, tmp_path: Path) -> None:
    rows = [
        {"prompt": f"p{i}", "chosen": {"bytes": picture_bytes(i), "path": None}, "rejected": picture_bytes(i + 1)}
        for i in range(3)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    manifest = """
    [splits.train]
    files = ["a.parquet"]
    [columns]
    prompt = "prompt"
    preferred_bytes = "chosen"
    rejected_bytes = "rejected"
    """
    report = embedded(curate, tmp_path, manifest)
    assert (report["pairs"], report["images"], report["ties"]) == (3, 4, 0)
    assert ranked(curate)["base_pairs"] == 3
    found = {sample["prompt"]: (sample["preferred"], sample["rejected"]) for sample in exported(curate, tmp_path)}
    assert found == {f"p{i}": (picture_bytes(i), picture_bytes(i + 1)) for i in range(3)}


def test_ranked_pictures_of_a_prompt(curate: Curate, tmp_path: Path) -> None:
    rows = [{"prompt": "p", "image_path": [f"{i}.jpg" for i in range(4)], "rank": [3, 1, 2, 3]}]
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name, data in pictures(4, "{}.jpg").items():
        (tmp_path / name).write_bytes(data)
    manifest = """
    [splits.test]
    files = ["test.jsonl"]
    [query]
    sql = "select prompt, image_path, rank from source"
    [candidates]
    rule = "all"
    """
    report = embedded(curate, tmp_path, manifest)
    assert (report["pairs"], report["images"]) == (5, 4)  # 1 beats 2, 0, 3; 2 beats 0, 3; 0 and 3 are tied
    assert ranked(curate)["base_pairs"] == 5
    better = [picture_bytes(place) for place in (1, 2)]
    assert all(sample["preferred"] in better for sample in exported(curate, tmp_path))


DIMENSIONS = [
    {"prompt": "p", "a": "0.jpg", "b": "1.jpg", "question": "style", "share": 0.9},
    {"prompt": "p", "a": "0.jpg", "b": "1.jpg", "question": "text", "share": 0.4},
    {"prompt": "q", "a": "1.jpg", "b": "2.jpg", "question": "text", "share": 0.2},
    {"prompt": "r", "a": "0.jpg", "b": "2.jpg", "question": None, "share": 0.9},
]
DIMENSIONS_MANIFEST = """
[splits.train]
files = ["d.jsonl"]
[columns]
prompt = "prompt"
image_0_path = "a"
image_1_path = "b"
dimension = "question"
share_0 = "share"
"""


def test_several_questions_about_a_pair(curate: Curate, tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, DIMENSIONS)))
    for name, data in pictures(3, "{}.jpg").items():
        (tmp_path / name).write_bytes(data)
    columns = ["pair_id", "preference", "strength", "disagreement"]
    mean = embedded(curate, tmp_path, DIMENSIONS_MANIFEST)
    assert (mean["pairs"], mean["dropped_pairs"]) == (3, {"other_dimension": 1})
    of_mean = pq.read_table("run/pairs.parquet", columns=columns).to_pylist()
    assert [(row["preference"], round(row["strength"], 6), row["disagreement"]) for row in of_mean] == [
        (0, 0.65, 0.5),  # (0.9 + 0.4) / 2, and the text says otherwise
        (1, 0.8, 0.0),
        (0, 0.9, 0.0),
    ]
    text = embedded(curate, tmp_path, DIMENSIONS_MANIFEST, "--dimension", "text", "--run", "text")
    assert (text["pairs"], text["dropped_pairs"]) == (2, {"other_dimension": 2})
    of_text = pq.read_table("text/pairs.parquet", columns=columns).to_pylist()
    assert [(row["preference"], round(row["strength"], 6)) for row in of_text] == [(1, 0.6), (1, 0.8)]
    assert [row["pair_id"] for row in of_text] == [row["pair_id"] for row in of_mean[:2]]


def test_two_folders_and_a_set_of_tars(curate: Curate, tmp_path: Path) -> None:
    for side, shift in (("win", 0), ("lose", 1)):
        (tmp_path / "set" / side).mkdir(parents=True)
        for place in range(2):
            (tmp_path / "set" / side / f"{place}.jpg").write_bytes(picture_bytes(place + shift))
            (tmp_path / "set" / side / f"{place}.txt").write_text(f"prompt {place}")
    (tmp_path / "set" / "win" / "alone.jpg").write_bytes(picture_bytes(7))
    manifest = """
    [splits.train]
    files = ["set"]
    [columns]
    prompt = "caption"
    preferred_path = "preferred"
    rejected_path = "rejected"
    """
    report = embedded(curate, tmp_path, manifest)
    assert (report["source_rows"], report["pairs"], report["dropped_pairs"]) == (3, 2, {"empty_prompt": 1})
    assert ranked(curate)["base_pairs"] == 2
    assert {sample["preferred"] for sample in exported(curate, tmp_path)} == {picture_bytes(0), picture_bytes(1)}
