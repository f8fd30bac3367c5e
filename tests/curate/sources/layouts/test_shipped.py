"""Each shipped manifest on a miniature of its set, in the published layout, through embed, rank and export.

The miniatures are made here; counts are worked out by hand beside them.
"""

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.sources.manifest import BUNDLED
from tests.curate.builders import MODELS, Outcome, picture_bytes
from tests.curate.sources.layouts.test_layouts import exported
from tests.curate.sources.layouts.test_members import write_tar, write_zip


@dataclass(frozen=True)
class Set:
    """write: makes the miniature and returns the options that name it. preferred: prompt and picture of each pair.

    pair_ids: a hash of them, which no release may change; empty where a picture is known by the bytes of a JPEG.
    """

    write: Callable[[Path], list[object]]
    rows: int
    pairs: int
    preferred: set[tuple[str, int]]
    ties: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    pair_ids: str = ""


def json_file(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps(rows))
    return path


def parquet_file(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def folder_of(path: Path, names: list[str]) -> Path:
    path.mkdir()
    for place, name in enumerate(names):
        (path / name).write_bytes(picture_bytes(place))
    return path


def image(seed: int) -> dict[str, Any]:
    return {"bytes": picture_bytes(seed), "path": f"{seed}.jpg"}


def hpdv2(here: Path) -> list[object]:
    rows = [
        {"prompt": "p", "image_path": ["0.jpg", "1.jpg"], "human_preference": [1, 0], "user_hash": "u"},
        {"prompt": "q", "image_path": ["2.jpg", "1.jpg"], "human_preference": [0, 1], "user_hash": "u"},
        {"prompt": "r", "image_path": ["2.jpg", "1.jpg"], "human_preference": [1, 1], "user_hash": "u"},
    ]
    folder = folder_of(here / "train", ["0.jpg", "1.jpg", "2.jpg"])
    return ["--source", json_file(here / "train.json", rows), "--images", folder]


def hpdv2_test(here: Path) -> list[object]:
    rows = [{"prompt": "p", "image_path": ["0.jpg", "1.jpg", "2.jpg"], "rank": [2, 1, 3], "raw_annotations": []}]
    folder = folder_of(here / "test", ["0.jpg", "1.jpg", "2.jpg"])
    return ["--source", json_file(here / "test.json", rows), "--images", folder]


def pieces(here: Path, name: str, data: bytes) -> str:
    for place in range(3):
        size = -(-len(data) // 3)
        (here / name.format(place)).write_bytes(data[place * size : (place + 1) * size])
    return str(here / name.format("*"))


def hpdv3(here: Path) -> list[object]:
    def row(prompt: str, one: int, two: int, votes: list[int] | None) -> dict[str, Any]:
        paths = {"path1": f"images/{one}.jpg", "path2": f"images/{two}.jpg", "model1": "flux", "model2": "sdxl"}
        return {"prompt": prompt, **paths, "confidence": 0.9, "choice_dist": votes, "source": "s"}

    rows = [row("p", 0, 1, None), row("q", 1, 2, [3, 1]), row("r", 0, 2, [1, 4])]
    tar = write_tar(here / "images.tar", {f"images/{i}.jpg": picture_bytes(i) for i in range(3)})
    archive = pieces(here, "images.tar.gz.0{}", gzip.compress(tar.read_bytes()))
    return ["--source", json_file(here / "train.json", rows), "--images", archive, "--unpack", here / "pictures"]


def hpdv3pp(here: Path) -> list[object]:
    def row(prompt: str, one: int, two: int) -> dict[str, Any]:
        return {"prompt": prompt, "path1": f"images/qwen_image/{one}.jpg", "path2": f"images/qwen_image/{two}.jpg"}

    json_file(here / "train_aes.json", [row("p", 0, 1), row("q", 2, 1)])
    json_file(here / "train_tf.json", [row("p", 1, 0), row("q", 2, 1), row("r", 0, 2)])
    tar = write_tar(here / "plain.tar", {f"images/qwen_image/{i}.jpg": picture_bytes(i) for i in range(3)})
    archive = pieces(here, "images.tar.part{}", tar.read_bytes())
    return ["--source", here / "train_*.json", "--images", archive, "--unpack", here / "pictures"]


def imagerewarddb(here: Path) -> list[object]:
    def row(image: int, rank: int) -> dict[str, Any]:
        path = f"images/train/train_{1 + image % 2}/{image}.webp"
        rest = {"classification": "Animals", "image_amount_in_total": 3, "overall_rating": 8 - rank}
        return {"prompt_id": "1", "prompt": "p", "image_path": path, "rank": rank, **rest}

    source = parquet_file(here / "metadata-train.parquet", [row(0, 2), row(1, 1), row(2, 2)])
    (here / "images").mkdir()
    write_zip(here / "images" / "train_1.zip", {f"{i}.webp": picture_bytes(i) for i in (0, 2)})
    write_zip(here / "images" / "train_2.zip", {"1.webp": picture_bytes(1)})
    return ["--source", source, "--images", here / "images" / "*.zip"]


def open_image_preferences(here: Path) -> list[object]:
    rows = [{"prompt": name, "chosen": image(i), "rejected": image(i + 1)} for i, name in enumerate("pq")]
    return ["--source", parquet_file(here / "train-0.parquet", rows)]


def rapidata_700k(here: Path) -> list[object]:
    def row(prompt: str, one: int, two: int, votes: tuple[int, int]) -> dict[str, Any]:
        paths = {"image1_path": f"{one}.jpg", "image2_path": f"{two}.jpg", "model1": "flux", "model2": "mj"}
        counted = {"votes_image1": votes[0], "votes_image2": votes[1], "detailed_results": "[]"}
        return {"prompt": prompt, "image1": image(one), "image2": image(two), **counted, **paths}

    rows = [row("p", 0, 1, (20, 6)), row("q", 1, 2, (3, 9)), row("r", 0, 2, (5, 5))]
    return ["--source", parquet_file(here / "train_0001.parquet", rows)]


def rapidata_t2i(here: Path) -> list[object]:
    def row(prompt: str, one: int, two: int, shares: tuple[float, float, float]) -> dict[str, Any]:
        questions = zip(("preference", "coherence", "alignment"), shares, strict=True)
        told: dict[str, float] = {}
        for question, share in questions:
            told |= {f"weighted_results_image1_{question}": share, f"weighted_results_image2_{question}": 1 - share}
        return {"prompt": prompt, "image1": image(one), "image2": image(two), "model1": "a", "model2": "b", **told}

    rows = [row("p", 0, 1, (0.9, 0.8, 0.4)), row("q", 1, 2, (0.1, 0.2, 0.3))]
    return ["--source", parquet_file(here / "train-0.parquet", rows)]


def pickapic_v2_tars(here: Path) -> list[object]:
    members: dict[str, bytes] = {}
    for key, (one, two, label) in enumerate([(0, 1, "1.0"), (1, 2, "0.0"), (0, 2, "0.5")]):
        members |= {f"{key}.original_prompt.txt": "pqr"[key].encode(), f"{key}.label_0.txt": label.encode()}
        members |= {f"{key}.label_1.txt": str(1 - float(label)).encode()}
        members |= {f"{key}.jpg_0.jpg": picture_bytes(one), f"{key}.jpg_1.jpg": picture_bytes(two)}
    write_tar(here / "00000.tar", dict(list(members.items())[:5]))
    write_tar(here / "00001.tar", dict(list(members.items())[5:]))
    return ["--source", here / "*.tar"]


def genai_bench(here: Path) -> list[object]:
    def row(prompt: str, one: int, two: int, vote: str) -> dict[str, Any]:
        sides = {"left_model": "a", "right_model": "b", "left_clip_score": 0.3, "right_clip_score": 0.2}
        return {"prompt": prompt, "left_image": image(one), "right_image": image(two), **sides, "vote_type": vote,
                "uid": prompt}  # fmt: skip

    votes = [("p", 0, 1, "leftvote"), ("q", 1, 2, "rightvote"), ("r", 0, 2, "bothbad_vote"), ("s", 0, 2, "later")]
    return ["--source", parquet_file(here / "test-0.parquet", [row(*vote) for vote in votes])]


def folders(here: Path) -> list[object]:
    for side, shift in (("w", 0), ("l", 1)):
        (here / "set" / side).mkdir(parents=True)
        for place, prompt in enumerate("pq"):
            (here / "set" / side / f"{place}.jpg").write_bytes(picture_bytes(place + shift))
            (here / "set" / side / f"{place}.caption").write_text(prompt)
    return ["--source", here / "set"]


SETS = {
    "hpdv2": Set(hpdv2, 3, 2, {("p", 0), ("q", 1)}, dropped={"bad_label": 1}, pair_ids="321296de"),
    "hpdv2_test": Set(hpdv2_test, 3, 3, {("p", 1), ("p", 0)}, pair_ids="7da2e466"),
    "hpdv3": Set(hpdv3, 3, 3, {("p", 0), ("q", 1), ("r", 2)}, pair_ids="b0162677"),
    # p: one question each way, a tie; q: twice the same; r: asked once
    "hpdv3pp": Set(hpdv3pp, 5, 3, {("q", 2), ("r", 0)}, ties=1, dropped={"other_dimension": 2}, pair_ids="0cafb226"),
    "imagerewarddb": Set(imagerewarddb, 2, 2, {("p", 1)}, pair_ids="0158eaba"),  # 1 is best, 0 and 2 are tied
    "open_image_preferences": Set(open_image_preferences, 2, 2, {("p", 0), ("q", 1)}),
    "rapidata_700k": Set(rapidata_700k, 3, 3, {("p", 0), ("q", 2)}, ties=1, pair_ids="0180c6fd"),
    "rapidata_t2i": Set(rapidata_t2i, 6, 2, {("p", 0), ("q", 2)}, dropped={"other_dimension": 4}),
    "pickapic_v2_tars": Set(pickapic_v2_tars, 3, 3, {("p", 0), ("q", 2)}, ties=1, pair_ids="37e2dc75"),
    "genai_bench": Set(genai_bench, 4, 3, {("p", 0), ("q", 2)}, ties=1, dropped={"bad_label": 1}),
    "folders": Set(folders, 2, 2, {("p", 0), ("q", 1)}, pair_ids="47f3e60f"),
}


def test_each_shipped_set_has_a_miniature() -> None:
    shipped = {path.stem for path in BUNDLED.glob("*.toml")}
    assert set(SETS) == shipped - {"demo", "generic", "pickapic_v1", "pickapic_v2"}  # the last two: every other test


@pytest.mark.parametrize("name", SETS)
def test_a_miniature_through_embed_rank_and_export(
    curate: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    made = SETS[name]
    given = ["--manifest", name, "--models", MODELS, "--scorers", "clip", *made.write(tmp_path)]
    if name in ("hpdv2_test", "genai_bench"):
        given += ["--split", "test"]
    outcome = curate("embed", *given, "--json")
    assert outcome.code == 0, outcome.err
    report = json.loads(outcome.out)
    assert (report["source_rows"], report["pairs"], report["ties"]) == (made.rows, made.pairs, made.ties)
    assert report["dropped_pairs"] == made.dropped
    assert report["dropped_images"] == {}
    if made.pair_ids:
        ids = sorted(pq.read_table(tmp_path / "run" / "pairs.parquet")["pair_id"].to_pylist())
        assert blake2b("".join(ids).encode(), digest_size=4).hexdigest() == made.pair_ids
    assert curate("rank", "--psi", "clip", "--metric", "margin", "--top", "1.0").code == 0
    samples = exported(curate, tmp_path)
    assert len(samples) == made.pairs - made.ties
    assert {(sample["prompt"], sample["preferred"]) for sample in samples} == {
        (prompt, picture_bytes(place)) for prompt, place in made.preferred
    }
