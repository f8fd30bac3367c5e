"""`make gpu`: the rehearsal on this CPU, and what it says where something is missing, fails or takes too long."""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import packages
from benchmarks.gpu.__main__ import do, work_through
from benchmarks.gpu.page import write_page
from benchmarks.gpu.plan import PARTS, Row, chosen, note_down, recorded
from tests.demo import ROOT

EMBED_PATHS = PARTS[0]
NO_CUDA = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")


def gpu(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.gpu", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def options(work: Path, **changes: Any) -> argparse.Namespace:
    told = {"rehearse": True, "work": work, "docs": work, "diffusers": None, "salesforce": None, "minutes": 9.0}
    return argparse.Namespace(**(told | {"parts": PARTS} | changes))


def begun(work: Path) -> Path:
    """A record with its first line."""
    record = work / "gpu.jsonl"
    note_down(record, "start", {"machine": "here", "date": "2026-11-30", "rehearsal": True})
    return record


@pytest.mark.slow
def test_a_rehearsal_runs_every_part_and_what_must_be_equal_is(tmp_path: Path) -> None:
    done = gpu("--rehearse", "--work", tmp_path)
    lines = recorded(tmp_path / "gpu.jsonl")
    ended = {line["part"]: line["ended"] for line in lines if "ended" in line}
    assert ended == {part.name: "done" for part in PARTS}, done.stdout + done.stderr
    assert [line for line in lines if line.get("holds") is False] == []
    assert done.returncode == 0


@NO_CUDA
def test_without_a_gpu_one_sentence_says_what_to_do(tmp_path: Path) -> None:
    done = gpu("--work", tmp_path)
    assert done.returncode == 1
    assert done.stderr == (
        "torch sees no CUDA device: nothing to prove here; `make gpu REHEARSE=1` runs every part on the CPU\n"
    )


def test_an_unknown_part_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"there is no part embed; there are embed-paths, train-paths"):
        chosen("embed-paths,embed")
    assert [part.name for part in chosen("train-sdxl,embed-paths")] == ["embed-paths", "train-sdxl"]  # by their worth


def test_a_part_is_ended_at_its_limit_and_what_it_recorded_stays(tmp_path: Path) -> None:
    record = begun(tmp_path)
    note_down(record, EMBED_PATHS.name, Row("a row", 0.5, at_most=1.0))
    work_through(options(tmp_path, parts=[EMBED_PATHS], minutes=2 / 60), record)
    row, ended = recorded(record)[1:]
    assert row["holds"] is True
    assert ended["ended"] == "ended at its limit of 2 s; the rows above stand"
    assert "| a row | 0.5 | at most 1 |" in (tmp_path / "gpu.md").read_text()


@NO_CUDA
def test_a_part_that_fails_says_why(tmp_path: Path) -> None:
    ended = do(EMBED_PATHS, options(tmp_path, rehearse=False), begun(tmp_path), limit_sec=120)
    assert ended["ended"].startswith("failed: ")
    assert "--device cuda: torch sees 0 CUDA devices here" in ended["ended"]


def test_parts_for_which_no_time_is_left_are_said(tmp_path: Path) -> None:
    record = begun(tmp_path)
    work_through(options(tmp_path, minutes=0.0), record)
    assert [line["ended"] for line in recorded(record)[1:]] == ["no time was left"] * len(PARTS)


@pytest.mark.parametrize(
    ("row", "holds"),
    [
        (Row("x", 0.5, at_most=1.0), True),
        (Row("x", 1.5, at_most=1.0), False),
        (Row("x", 0.5, at_least=1.0), False),
        (Row("x", float("nan"), at_most=1.0), False),
        (Row("x", 0.5), None),
        (Row("x", None, at_least=1.0, note="no --diffusers DIR was given"), None),
    ],
)
def test_a_bound_holds_or_not_and_nan_never_does(row: Row, holds: bool | None) -> None:
    assert row.holds is holds


def test_what_is_missing_is_named_with_what_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert packages.lacking() == []
    project = tmp_path / "pyproject.toml"
    project.write_text('[project]\ndependencies = ["numpy>=99", "no-such-package>=1", "typer", "altair>=99"]\n')
    monkeypatch.setattr(packages, "PROJECT", project)
    here = packages.versions()["numpy"]
    assert packages.lacking() == [f"numpy>=99 ({here} is installed)", "no-such-package>=1 (not installed)"]


def test_a_folder_without_wheels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="there is no wheel in it"):
        packages.install(tmp_path, tmp_path / "site")


def test_the_page_of_the_repository_says_what_the_parts_are_today(tmp_path: Path) -> None:
    record = begun(tmp_path)
    write_page(record, tmp_path)
    head = (tmp_path / "gpu.md").read_text().partition("## What was found")[0]
    page = (ROOT / "docs" / "gpu.md").read_text()
    how_to_run = head[head.index("    make gpu ") :]  # what stands before it is of the last run
    assert how_to_run in page
