"""The bundled demo from its Parquet to its shards, with counts and qualities worked out independently."""

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.demo import ROOT, command

PAIRS = ROOT / "data_manifests" / "demo" / "pairs"
CONTROL_UID = "767c0473-32cf-4d8b-9d82-25412a5f7f6d"
SCORERS = ("clip", "pickscore", "aesthetic")


@pytest.fixture
def run(demo_run: Path) -> Path:
    """The three commands of the README."""
    return demo_run


@pytest.fixture(scope="session")
def source() -> pl.DataFrame:
    return pl.read_parquet(str(PAIRS / "*.parquet"))


@pytest.fixture(scope="session")
def judged(source: pl.DataFrame) -> pl.DataFrame:
    """Rows that are labelled and show no control image, ties included."""
    shows_control = (pl.col("image_0_uid") == CONTROL_UID) | (pl.col("image_1_uid") == CONTROL_UID)
    return source.filter(pl.col("has_label") & ~shows_control)


def documents(run: Path) -> dict[str, Any]:
    return json.loads((run / "embed.json").read_text())


def test_the_counts_of_embed(run: Path, source: pl.DataFrame, judged: pl.DataFrame) -> None:
    summary = documents(run)
    images = pl.concat([judged["image_0_uid"].rename("uid"), judged["image_1_uid"].rename("uid")])
    assert summary["source_rows"] == source.height
    assert summary["pairs"] == judged.height
    assert summary["dropped_pairs"]["unlabelled"] == source.filter(~pl.col("has_label")).height
    assert sum(summary["dropped_pairs"].values()) == source.height - judged.height
    assert summary["ties"] == judged.filter(pl.col("label_0") == 0.5).height
    assert summary["images"] == summary["scored_images"] == images.n_unique()
    assert summary["prompts"] == judged["caption"].n_unique()
    assert summary["dropped_images"] == {}


def test_the_counts_of_rank(run: Path, judged: pl.DataFrame) -> None:
    ranking = pl.read_parquet(run / "rankings" / "default.parquet")
    decided = judged.filter(pl.col("label_0") != 0.5)
    assert ranking.height == decided.height >= 5000
    assert ranking["selected"].sum() == int(0.0533 * decided.height + 0.5)
    assert ranking["rank"].to_list() == list(range(1, decided.height + 1))


def test_qualities_equal_a_slow_version(run: Path, judged: pl.DataFrame) -> None:
    """qsd over the blend of percentiles, from the source's own labels and the scores table."""
    decided = judged.filter(pl.col("label_0") != 0.5).select("caption", "image_0_uid", "image_1_uid", "label_0")
    prompts = dict(pl.read_parquet(str(run / "prompts" / "*.parquet")).select("prompt_id", "prompt").iter_rows())
    scores = {
        (prompts[row["prompt_id"]], row["image_uid"]): row
        for row in pl.read_parquet(str(run / "scores" / "*.parquet")).iter_rows(named=True)
    }
    used = sorted({(row[0], uid) for row in decided.iter_rows() for uid in row[1:3]})
    psi = dict.fromkeys(used, 0.0)
    for scorer in SCORERS:
        values = pl.Series([scores[key][f"{scorer}_score"] for key in used])
        below = (values.rank("min") - 1) / (len(used) - 1)
        for key, share in zip(used, below, strict=True):
            psi[key] += share / len(SCORERS)
    expected = []
    for caption, one, other, label in decided.iter_rows():
        preferred, rejected = (one, other) if label == 1.0 else (other, one)
        expected.append(psi[caption, preferred] * (1 - psi[caption, rejected]))
    found = pl.read_parquet(run / "rankings" / "default.parquet")["quality"].to_list()
    assert found == pytest.approx(sorted(expected, reverse=True), abs=1e-9)


def test_no_tie_reaches_a_shard_and_every_byte_is_the_sources(run: Path, judged: pl.DataFrame) -> None:
    index = json.loads((run / "shards" / "shards.json").read_text())
    labels = {
        (row["caption"], row["image_0_uid"], row["image_1_uid"], row["user_id"], row["label_0"]): row
        for row in judged.iter_rows(named=True)
    }
    by_sides: dict[tuple[str, str, str, str], dict[str, Any]] = {}
    for (caption, one, other, user, label), row in labels.items():
        if label != 0.5:
            preferred, rejected = (one, other) if label == 1.0 else (other, one)
            by_sides[caption, preferred, rejected, str(user)] = row
    samples = 0
    for entry in index["shards"]:
        with tarfile.open(run / "shards" / entry["file"]) as tar:
            members = {item.name: tar.extractfile(item).read() for item in tar}  # type: ignore[union-attr]
        for name, data in members.items():
            if not name.endswith(".json"):
                continue
            key, meta = name.split(".")[0], json.loads(data)
            caption = members[f"{key}.txt"].decode()
            sides = (meta["preferred"]["image_uid"], meta["rejected"]["image_uid"])
            row = by_sides[(caption, *sides, meta["source"]["annotator_id"])]
            bytes_of = {row["image_0_uid"]: row["jpg_0"], row["image_1_uid"]: row["jpg_1"]}
            assert members[f"{key}.preferred.{index['extension']}"] == bytes_of[sides[0]]
            assert members[f"{key}.rejected.{index['extension']}"] == bytes_of[sides[1]]
            samples += 1
    assert samples == index["pairs"] == index["ranking"]["selected_pairs"]


def test_the_selected_pairs_agree_with_the_scorers_more_than_the_others(run: Path) -> None:
    """What qsd is for: among the selected, the human's choice is the scorers' choice far more often."""
    query = "select selected, avg((clip_margin > 0)::int) as agreement from ranking group by selected order by selected"
    rows = json.loads(command("curate", "sql", query, "--json", run=run))
    assert rows[1]["selected"]
    assert rows[1]["agreement"] > rows[0]["agreement"]


def swap_sides(shards: Path, output: Path) -> Path:
    """The same export with every pair's judgement turned round."""
    output.mkdir()
    index = json.loads((shards / "shards.json").read_text())
    for entry in index["shards"]:
        with tarfile.open(shards / entry["file"]) as source, tarfile.open(output / entry["file"], "w") as target:
            for item in source:
                data = source.extractfile(item).read()  # type: ignore[union-attr]
                if item.name.endswith(".json"):
                    meta = json.loads(data)
                    meta["preferred"], meta["rejected"] = meta["rejected"], meta["preferred"]
                    data = json.dumps(meta).encode()
                turned = {"preferred": "rejected", "rejected": "preferred"}
                key, member, *rest = item.name.split(".")
                renamed = tarfile.TarInfo(".".join([key, turned.get(member, member), *rest]))
                renamed.size = len(data)
                target.addfile(renamed, io.BytesIO(data))
        written = (output / entry["file"]).read_bytes()
        entry |= {"bytes": len(written), "sha256": hashlib.sha256(written).hexdigest()}
    (output / "shards.json").write_text(json.dumps(index))
    return output


@pytest.mark.slow
def test_training_on_swapped_sides_moves_the_implicit_margin_the_other_way(run: Path, tmp_path: Path) -> None:
    """Each model leans to the sides that it was told are preferred, so by the humans' sides they part."""
    changes = {}
    for name, shards in (("straight", run / "shards"), ("swapped", swap_sides(run / "shards", tmp_path / "swapped"))):
        steps = ("--steps", "12", "--batch-pairs", "16")
        command("train", "run", "--shards", shards, *steps, "--output", tmp_path / f"trained-{name}", run=run)
        log = [json.loads(line) for line in (tmp_path / f"trained-{name}" / "log.jsonl").read_text().splitlines()]
        own_sides = sum(row["policy_margin"] - row["reference_margin"] for row in log[-4:]) / 4
        changes[name] = own_sides if name == "straight" else -own_sides  # by the humans' sides
    assert changes["straight"] > 0 > changes["swapped"]
