"""Two arms end to end on a tiny world; a killed run goes on and ends the same."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.reproduction.arms import Job, jobs_of
from benchmarks.reproduction.job import results_folder
from benchmarks.reproduction.planner import expected_sec, pace, plan_lines
from benchmarks.reproduction.report import write_report
from benchmarks.reproduction.run import todo, work_through
from tests.reproduction.small import SIZE, arm

ARMS = [arm("all"), arm("qsd"), arm("bottom"), arm("random"), arm("winner")]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two arms done."""
    folder = tmp_path_factory.mktemp("reproduction")
    work_through(folder, jobs_of(ARMS[:2]), workers=1, until_sec=600, size=SIZE)
    return folder


def result(work: Path, job: Job) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((results_folder(work) / f"{job.key}.json").read_text())
    return found


def test_each_job_leaves_its_curve_and_its_pictures(work: Path) -> None:
    for job in jobs_of(ARMS[:2]):
        found = result(work, job)
        assert [point["step"] for point in found["curve"]] == [1, 3]
        assert found["settings"] == json.loads(json.dumps(job.settings))
        assert (work / "pictures" / f"{job.key}.png").exists()
    every, top = (result(work, job)["selection"] for job in jobs_of(ARMS[:2]))
    assert (every["pairs"], top["pairs"]) == (72, 14)


def test_what_is_done_is_not_done_again_and_what_is_lost_comes_out_the_same(work: Path) -> None:
    first, second = jobs_of(ARMS[:2])
    kept, lost = (results_folder(work) / f"{job.key}.json" for job in (first, second))
    before, stamp = result(work, second), kept.stat().st_mtime_ns
    lost.unlink()
    left = todo(work, [first, second])
    assert [job.key for job in left] == [second.key]
    work_through(work, left, workers=1, until_sec=600, size=SIZE)
    after = result(work, second)
    assert (after["curve"], after["selection"]) == (before["curve"], before["selection"])
    assert kept.stat().st_mtime_ns == stamp
    assert todo(work, [first, second]) == []


def test_no_job_is_begun_after_the_time_is_up(work: Path) -> None:
    job = Job(arm("qsd", seeds=(5,)), 5)
    work_through(work, [job], workers=1, until_sec=-1, size=SIZE)
    assert todo(work, [job]) == [job]


def test_a_world_of_another_size_is_refused(work: Path) -> None:
    with pytest.raises(ValueError, match="holds 72 pairs, not those of 1024 prompts; give another --work"):
        work_through(work, [], workers=1, until_sec=1)


def test_the_report_is_made_of_what_there_is(work: Path, tmp_path: Path) -> None:
    report = write_report(work, tmp_path, ARMS[:2], SIZE)
    assert (report["arms"], report["runs"]) == (2, 2)
    text = (tmp_path / "reproduction.md").read_text()
    assert "{{" not in text
    assert "72 pairs of 6 prompts" in text
    assert "open: " in text  # one seed answers nothing
    assert "not measured yet" in text.lower()
    rows = (tmp_path / "reproduction" / "results.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * 2
    for name in report["figures"]:
        assert (tmp_path / "reproduction" / name).stat().st_size > 500
    assert {"curves.svg", "metrics.svg"} <= set(report["figures"])


def test_no_report_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no result in"):
        write_report(tmp_path, tmp_path)


def test_the_plan_counts_what_is_left_and_learns_the_machines_pace(work: Path, tmp_path: Path) -> None:
    jobs = jobs_of(ARMS[:2])
    slow = results_folder(tmp_path)
    slow.mkdir()
    for job in jobs:
        (slow / f"{job.key}.json").write_text(json.dumps({"cpu_sec": 2 * expected_sec(job)}))
    assert pace(tmp_path, jobs) == pytest.approx(2.0)
    assert pace(tmp_path / "none", jobs) == 1.0
    lines = plan_lines(tmp_path / "none", ["main"], workers=2)
    assert lines[0].split()[:5] == ["main", "100", "of", "100", "jobs"]
    assert lines[-1].endswith("hours on 2 free cores")
    assert float(lines[-1].split()[-6]) > 0
