"""The README's commands, read out of it and run: Pick-a-Pic's on stand-ins, each recipe on a miniature."""

import csv
import json
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import curate.cli
import train.cli
from tests.demo import ROOT

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
SOURCE = ROOT / "data_manifests" / "demo" / "pairs" / "train-00000-of-00003.parquet"
SDXL = ROOT / "data_manifests" / "demo" / "models" / "sdxl"
# What stands in for what. Nothing else of a command is changed.
STAND_INS = {
    "/data/pickapic_v2/": "data/",  # the first 150 rows of the demo, in Pick-a-Pic's columns
    "curate embed": "curate embed --models demo",
    "--preset sd15-lora --steps 7000": "--preset sd15-lora --steps 1 --model demo --config small.toml",
    "--preset sdxl-lora": f"--preset sdxl-lora --steps 1 --model {SDXL} --config small.toml",
    "train sample": "train sample --steps 2",
}
SMALL = """[data]
resolution_px = 64
[run]
batch_pairs = 2
micro_batch_pairs = 2
mixed_precision = "no"
gradient_checkpointing = false
"""


def blocks(heading: str, language: str) -> list[str]:
    """The fenced blocks of one language in one section."""
    section = re.search(rf"^## {heading}.*?\n(.*?)(?=^## |\Z)", TEXT, re.M | re.S)
    assert section, heading
    return re.findall(rf"^```{language}\n(.*?)^```", section[1], re.M | re.S)


def commands(heading: str) -> Iterator[list[str]]:
    for line in "".join(blocks(heading, "sh")).splitlines():
        if words := shlex.split(line, comments=True):
            yield words


def run(words: list[str]) -> None:
    program, *arguments = words
    {"curate": curate.cli.app, "train": train.cli.app}[program](arguments, standalone_mode=False)


def test_it_has_nine_hundred_words_and_names_the_paper_first() -> None:
    assert len(TEXT.split()) < 1000
    assert TEXT.split("\n\n")[1].startswith("Singh et al.")
    assert TEXT.count("![") == 1


@pytest.mark.slow
def test_pick_a_pic_runs_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scored, ranked twice, packed, verified; SD1.5 and SDXL trained, drawn beside their bases and compared."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    pl.read_parquet(SOURCE).head(150).write_parquet("data/train-0.parquet")
    Path("small.toml").write_text(SMALL)
    Path("PartiPrompts.tsv").write_text("Prompt\tCategory\na red circle\tAbstract\na blue square\tAbstract\n")
    done = []
    for words in commands("Pick-a-Pic"):
        line = shlex.join(words)
        for published, stand_in in STAND_INS.items():
            line = line.replace(published, stand_in)
        run(shlex.split(line))
        done.append(words[1])
    assert done.count("run") == done.count("sample") == done.count("compare") == 2
    for model in ("sd15", "sdxl"):
        report = json.loads(Path(f"runs/{model}/evaluation/compare.json").read_text())
        assert {one["scorer"] for one in report["verdicts"]} >= {"clip", "pickscore", "aesthetic", "hpsv2"}


def chosen_rejected(files: str, pictures: list[bytes]) -> None:
    path = Path(files.replace("*", "0"))
    path.parent.mkdir(parents=True, exist_ok=True)
    pl.DataFrame({"prompt": ["a", "b"], "chosen": pictures[:2], "rejected": pictures[2:4]}).write_parquet(path)


def votes(files: str, pictures: list[bytes]) -> None:
    for n, picture in enumerate(pictures):
        Path(f"{n}.jpg").write_bytes(picture)
    with Path(files).open("w", newline="") as file:
        rows = [("prompt", "left", "right", "for_left", "for_right"), ("a", "0.jpg", "1.jpg", 3, 1)]
        csv.writer(file).writerows([*rows, ("b", "2.jpg", "3.jpg", 0, 4)])


def lines(files: str, pictures: list[bytes], rows: list[dict[str, Any]], folder: str) -> None:
    Path(folder).mkdir(exist_ok=True)
    for n, picture in enumerate(pictures):
        Path(folder, f"{n}.jpg").write_bytes(picture)
    Path(files).write_text("".join(json.dumps(row) + "\n" for row in rows))


def in_a_folder(files: str, pictures: list[bytes]) -> None:
    rows = [{"prompt": "a", "win": "0.jpg", "lose": "1.jpg"}, {"prompt": "b", "win": "2.jpg", "lose": "3.jpg"}]
    lines(files, pictures, rows, "pictures")


def ranked(files: str, pictures: list[bytes]) -> None:
    rows = [{"prompt": "ab"[n // 2], "picture": f"{n}.jpg", "rank": n % 2} for n in range(4)]
    lines(files, pictures, rows, ".")


RECIPES = [chosen_rejected, votes, in_a_folder, ranked, chosen_rejected]


@pytest.mark.parametrize("n", range(5))
def test_a_recipe_reads_its_set(
    n: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each manifest as printed, but for the hub, where a folder stands in; then the command below it."""
    monkeypatch.chdir(tmp_path)
    recipes = blocks("Your own data", "toml")
    assert len(recipes) == len(RECIPES)
    manifest = recipes[n].replace("hf://datasets/owner/name/", "hub/")
    (found,) = re.findall(r'splits.train.files = \["(.+)"\]', manifest)
    make: Callable[[str, list[bytes]], None] = RECIPES[n]
    rows = pl.read_parquet(SOURCE).unique("image_0_uid", maintain_order=True)
    make(found, rows["jpg_0"].head(4).to_list())
    Path("my_pairs.toml").write_text(manifest)
    embed, *_ = commands("Your own data")
    run([*embed, "--models", "demo", "--dry-run", "--json"])
    planned = json.loads(capsys.readouterr().out)
    assert (planned["pairs"], planned["images"], planned["dropped_pairs"]) == (2, 4, {})
