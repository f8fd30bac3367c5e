"""The data set card: what the hub's own parser and `datasets` read from it."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import datasets
import pytest
from huggingface_hub import DatasetCard

from curate import cli
from curate.export.card import MARK, card_text, data_set_facts, size_category
from curate.rank.rankings import ranking_settings
from curate.storage.run import Run
from tests.curate.builders import picture_bytes

INDEX: dict[str, Any] = {
    "extension": "jpg",
    "pairs": 12,
    "prompts": 3,
    "encoded": None,
    "shards": [{"file": "pairs-000000.tar", "samples": 12, "bytes": 1234, "sha256": "ab" * 32}],
}


def card_of(run: Path, indices: dict[str, dict[str, Any]], **about: str) -> DatasetCard:
    stated = Run(run).settings()
    if about:
        stated["info"]["data_set"] = {"description": "", "homepage": "", "license": ""} | about
    return DatasetCard(card_text(stated, ranking_settings(Run(run), "default"), indices))


def test_header_is_what_the_hub_reads(ranked_run: Path) -> None:
    data = card_of(ranked_run, {"": INDEX}, license="Apache-2.0").data.to_dict()
    assert data["license"] == "apache-2.0"
    assert data["task_categories"] == ["text-to-image"]
    assert data["size_categories"] == ["n<1K"]
    (config,) = data["configs"]
    assert config.pop("description").startswith("shards ")
    assert config == {"config_name": "default", "data_files": [{"split": "train", "path": "*.tar"}]}


def test_each_split_is_a_split_of_the_card(ranked_run: Path) -> None:
    empty = INDEX | {"pairs": 0, "shards": []}
    card = card_of(ranked_run, {"train": INDEX, "validation": INDEX, "none": empty})
    assert card.data.to_dict()["configs"][0]["data_files"] == [
        {"split": "train", "path": "train/*.tar"},
        {"split": "validation", "path": "validation/*.tar"},
    ]
    assert "No prompt is in two of them." in card.text


@pytest.mark.parametrize(
    ("license_text", "header"),
    [
        ("MIT", {"license": "mit"}),
        ("", {"license": "unknown"}),
        ('My own: "ask" first', {"license": "other", "license_name": 'My own: "ask" first'}),
    ],
)
def test_license_of_the_source(ranked_run: Path, license_text: str, header: dict[str, str]) -> None:
    data = card_of(ranked_run, {"": INDEX}, license=license_text).data.to_dict()
    assert {key: data.get(key) for key in header} == header


def test_text_says_where_how_and_what(ranked_run: Path) -> None:
    text = card_of(ranked_run, {"": INDEX}, homepage="https://example.org/a|b").text
    assert MARK in text
    assert "https://example.org/a&#124;b" in text
    assert "| metric | qsd |" in text
    assert "12 of 60 ranked pairs (--top 12)" in text
    assert f"| pairs-000000.tar | 12 | 1,234 | `{'ab' * 32}` |" in text
    assert "    select" in text  # the metric's own SQL


def test_a_sources_own_words_are_neither_run_nor_escaped(ranked_run: Path) -> None:
    words = "{{ 7 * 7 }} {% raw %} <b> & 'é'"
    card = card_of(ranked_run, {"": INDEX}, description=words, license=words)
    assert f"| description | {words} |" in card.text
    assert card.data.to_dict()["license_name"] == words


def test_facts_of_a_run_that_has_none_come_from_the_bundled_manifest() -> None:
    facts = data_set_facts({"settings": {"manifest": {"name": "pickapic_v2"}}})
    assert facts["license"].startswith("MIT")
    assert data_set_facts({"settings": {"manifest": {"name": "no such"}}})["license"] == ""


@pytest.mark.parametrize(("count", "word"), [(0, "n<1K"), (1000, "1K<n<10K"), (45_374, "10K<n<100K"), (10**8, "n>10M")])
def test_size_categories(count: int, word: str) -> None:
    assert size_category(count) == word


def test_datasets_reads_the_folder_by_its_card(ranked_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    cli.app(["export-shards", "--run", str(ranked_run), "--output", str(folder)], standalone_mode=False)
    assert datasets.get_dataset_config_names(str(folder)) == ["default"]
    loaded = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert {split: rows.num_rows for split, rows in loaded.items()} == {"train": 12}
    assert loaded["train"][0]["preferred.jpg"].size == (64, 64)
    assert DatasetCard.load(folder / "README.md").data.to_dict()["pretty_name"].endswith("chosen by qsd")


def sample_json(quality: float, annotator: str | None, score: float | None) -> dict[str, Any]:
    side = {"image_uid": "u", "sha256": "s", "format": "PNG", "width": 8, "height": 8}
    scores = {scorer: {"preferred": score, "rejected": 0.5} for scorer in ("clip", "pickscore", "aesthetic")}
    source = {"dataset": "d", "split": "train", "file": "f", "row_group": 0, "row": 0, "annotator_id": annotator}
    ids = {"pair_id": "p", "prompt_id": "q", "quality": quality, "rank": 1}
    return ids | {"scores": scores, "preferred": side, "rejected": side, "source": source}


def test_what_is_null_in_the_first_samples_has_its_type_from_the_card(ranked_run: Path, tmp_path: Path) -> None:
    """`datasets` guesses types from five samples, and a null says nothing of the sixth."""
    folder = tmp_path / "shards"
    cli.app(["export-shards", "--run", str(ranked_run), "--output", str(folder)], standalone_mode=False)
    metas = [sample_json(0.5, None, None)] * 8 + [sample_json(0.5, "ann", 0.25)] * 4
    with tarfile.open(folder / "pairs-000000.tar", "w") as tar:
        for number, meta in enumerate(metas):
            image = picture_bytes(number)
            for member, data in {
                "json": json.dumps(meta).encode(), "preferred.jpg": image, "rejected.jpg": image, "txt": b"red box",
            }.items():  # fmt: skip
                info = tarfile.TarInfo(f"{number:09d}.{member}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    loaded = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    assert [row["source"]["annotator_id"] for row in loaded["json"]] == [None] * 8 + ["ann"] * 4
    assert loaded[11]["json"]["scores"]["clip"] == {"preferred": 0.25, "rejected": 0.5}


def test_a_second_export_is_not_taken_for_the_first(ranked_run: Path, tmp_path: Path) -> None:
    """Both have the same number of pairs in tars of one name."""
    folder, loaded = tmp_path / "shards", []
    for seed in (1, 2):
        options = ["--run", str(ranked_run), "--output", str(folder), "--order", "shuffle", "--seed", str(seed)]
        cli.app(["export-shards", *options], standalone_mode=False)
        rows = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
        loaded.append([row["pair_id"] for row in rows["json"]])
    assert sorted(loaded[0]) == sorted(loaded[1])
    assert loaded[0] != loaded[1]


def test_the_folder_of_a_split_is_read_by_itself(ranked_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    split = ["--split", "train=0.5,validation=0.5"]
    cli.app(["export-shards", "--run", str(ranked_run), "--output", str(folder), *split], standalone_mode=False)
    whole = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    for name in ("train", "validation"):
        one = datasets.load_dataset(str(folder / name), cache_dir=str(tmp_path / "cache"))["train"]
        assert one.num_rows == json.loads((folder / name / "shards.json").read_text())["pairs"] == whole[name].num_rows
