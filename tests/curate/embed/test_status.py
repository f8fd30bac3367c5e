"""What a run says of itself: its devices' reports, RUN/progress.json, and `curate status` from another process."""

import json
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from curate.embed import progress
from curate.embed.device.reports import ALL_BAD_IMAGES, DeviceReport, DroppedImage, RunProgress
from curate.embed.progress import read_progress, shown_progress
from curate.embed.status import is_locked, status
from curate.embed.stdout import progress_line
from curate.errors import SourceError
from curate.storage.folder import LocalFolder
from curate.storage.run import Run
from curate.terminal.text import duration
from schemas.command_line import INTERRUPTED
from tests.curate.builders import MODELS, Outcome, pair_row, write_pairs

Curate = Callable[..., Outcome]


def test_a_report_travels_by_pickle() -> None:
    done = DeviceReport(
        "cuda:1", 3, {"image_empty": 1}, (DroppedImage("u", "f", 0, 1, 0, "image_empty", "0 bytes"),), 1, 0.5, 0.6
    )
    assert pickle.loads(pickle.dumps(done)) == done  # noqa: S301


def test_reports_of_several_devices_add_up() -> None:
    run_progress = RunProgress(images=100, parts=10, images_before=20, parts_before=2)
    run_progress.add(DeviceReport("cuda:0", 30, {"image_empty": 2}, parts=3, busy_sec=3.0, elapsed_sec=4.0))
    run_progress.add(
        DeviceReport("cuda:1", 10, {"image_empty": 1, "image_missing": 1}, parts=1, busy_sec=1.0, elapsed_sec=4.0)
    )
    run_progress.add(DeviceReport("cuda:0", batch_images=128))
    run_progress.add(DeviceReport("cuda:0"))
    run_progress.started -= 10  # ten seconds ago
    numbers = run_progress.numbers()
    assert (numbers["images_done"], numbers["parts_done"]) == (60, 6)
    assert numbers["dropped"] == {"image_empty": 3, "image_missing": 1}
    assert numbers["busy_share"] == pytest.approx(0.5)
    assert numbers["devices"]["cuda:0"] == {"images": 30, "busy_share": 0.75, "batch": 128}
    assert numbers["images_per_sec"] == pytest.approx(4.0, rel=0.01)
    assert numbers["seconds_left"] == pytest.approx(10.0, rel=0.01)


def test_bad_images_alone_end_a_run_but_not_one_that_scored_before() -> None:
    bad = DeviceReport("cpu", ALL_BAD_IMAGES, {"image_empty": ALL_BAD_IMAGES})
    RunProgress(1000, 1, images_before=5, scored_before=True).add(bad)
    with pytest.raises(SourceError, match=f"not one of the first {ALL_BAD_IMAGES} images can be used"):
        RunProgress(1000, 1, images_before=5).add(bad)


def test_the_line_says_it_all() -> None:
    numbers = {
        "images_done": 1024, "images": 7012, "images_per_sec": 61.44, "busy_share": 0.975, "parts_done": 1, "parts": 7,
        "dropped": {"image_empty": 2, "image_missing": 1}, "seconds_left": 97.5,
    }  # fmt: skip
    assert progress_line(numbers) == (
        "images 1,024/7,012, 61.4/s, towers busy 98 %, parts 1/7, "
        "dropped 3 (2 image_empty, 1 image_missing), 1 min 38 s left"
    )
    start = RunProgress(7012, 7).numbers()
    assert progress_line(start) == "images 0/7,012, 0.0/s, parts 0/7"


@pytest.mark.parametrize(("seconds", "words"), [(0.4, "0 s"), (59.4, "59 s"), (185, "3 min 5 s"), (7620, "2 h 7 min")])
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_the_file_follows_the_run_and_says_how_it_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "TICK_SEC", 0.01)
    with shown_progress(LocalFolder(tmp_path), RunProgress(10, 1), {"device": "cpu"}) as report:
        report(DeviceReport("cpu", 4))
        while (read_progress(LocalFolder(tmp_path)) or {}).get("images_done") != 4:
            time.sleep(0.01)
        assert (read_progress(LocalFolder(tmp_path)) or {})["state"] == "running"
        report(DeviceReport("cpu", 6, parts=1))
    found = read_progress(LocalFolder(tmp_path)) or {}
    assert (found["state"], found["images_done"], found["parts_done"]) == ("finished", 10, 1)
    assert found["settings"] == {"device": "cpu"}
    with pytest.raises(SourceError), shown_progress(LocalFolder(tmp_path), RunProgress(10, 1), {}):
        raise SourceError("file is gone")
    assert (
        (read_progress(LocalFolder(tmp_path)) or {})["state"],
        (read_progress(LocalFolder(tmp_path)) or {})["error"],
    ) == (
        "stopped",
        "file is gone",
    )


def test_ctrl_c_says_what_stands_and_promises_no_seconds(
    curate: Curate, source_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = ["--part-images", 5]
    arguments = ["--manifest", "pickapic_v2", "--models", MODELS, "--source", source_file, "--device", "cpu", *parts]

    def interrupted(self: RunProgress, done: DeviceReport) -> None:
        add(self, done)
        if self.done_parts == 2:
            raise KeyboardInterrupt

    add = RunProgress.add
    with monkeypatch.context() as patch:
        patch.setattr(RunProgress, "add", interrupted)
        ended = curate("embed", *arguments, "--run", tmp_path / "run")
    stand = progress.parts_there(LocalFolder(tmp_path / "run"))
    words = f"stopped by Ctrl-C; {stand} of 4 parts stand in {tmp_path}/run, and the same command goes on from there"
    assert stand >= 2
    assert (ended.code, ended.out, ended.err.splitlines()[-1]) == (130, "", f"curate: {words}")
    said = curate("status", "--run", tmp_path / "run").out
    assert said.startswith(f"stopped   {tmp_path}/run: {words}\nprogress  images ")
    assert " left" not in said
    assert curate("embed", *arguments, "--run", tmp_path / "run").code == 0


def test_ctrl_c_elsewhere_is_one_sentence(curate: Curate, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("curate.compare.compare", interrupted)
    assert curate("compare", "--run", finished) == Outcome(130, "", f"curate: {INTERRUPTED}\n")


def test_lines_come_every_half_minute_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "TICK_SEC", 0.01)
    monkeypatch.setattr(progress, "LINE_EVERY_SEC", 0.0)
    said = ""
    with shown_progress(LocalFolder(tmp_path), RunProgress(10, 1), {}) as report:
        report(DeviceReport("cpu", 10, parts=1))
        while "images 10/10, " not in said:
            time.sleep(0.01)
            said += capsys.readouterr().err
    last = capsys.readouterr().err.splitlines()[-1]
    assert all(line.startswith("images 10/10, ") for line in [*said.splitlines()[1:], last])


@pytest.fixture
def finished(curate: Curate, source_file: Path, tmp_path: Path) -> Path:
    arguments = ["--manifest", "pickapic_v2", "--models", MODELS, "--source", source_file, "--device", "cpu"]
    assert curate("embed", *arguments, "--run", tmp_path / "run").code == 0
    return tmp_path / "run"


def test_status_of_a_finished_run(curate: Curate, finished: Path) -> None:
    outcome = curate("status", "--run", finished)
    lines = outcome.out.splitlines()
    assert (outcome.code, outcome.err) == (0, "")
    assert lines[0] == f"finished  {finished}"
    assert lines[1].startswith("progress  images 21/21, ")
    assert lines[2].startswith("settings  dataset pickapic_v2, split train, models ")
    report = json.loads(curate("status", "--run", finished, "--json").out)
    assert (report["state"], report["images_done"], report["parts_done"], report["parts"]) == ("finished", 21, 1, 1)
    assert report["settings"]["batch"] == "auto"
    assert report["devices"]["cpu"]["batch"] == 64
    with Run(finished).locked():
        assert status(Run(finished))["state"] == "finished"  # another stage writes there


def test_embed_json_says_how_it_was_computed(finished: Path) -> None:
    computed = json.loads((finished / "embed.json").read_text())["computed"]
    assert {"elapsed_sec", "images_per_sec", "busy_share", "dropped", "device", "precision", "batch"} <= set(computed)
    assert (computed["images"], computed["device"], computed["precision"]) == (21, "cpu", "fp32")
    assert computed["images_per_sec"] > 0


def test_a_run_without_its_progress_file_still_has_a_state(curate: Curate, finished: Path) -> None:
    (finished / "progress.json").unlink()
    assert status(Run(finished))["state"] == "finished"
    assert curate("status", "--run", finished).out == f"finished  {finished}\nsettings  device cpu, precision fp32\n"
    (finished / "progress.json").write_text("{")
    assert status(Run(finished))["state"] == "finished"
    (finished / "embed.json").unlink()
    assert status(Run(finished))["state"] == "stopped"


@pytest.mark.parametrize("shared", [False, True])
def test_a_lock_held_alone_or_shared_is_seen(tmp_path: Path, shared: bool) -> None:
    run = Run(tmp_path)
    with run.locked(shared=shared):
        assert is_locked(run)
    assert not is_locked(run)
    assert not is_locked(Run(tmp_path / "none"))


def test_no_run_is_one_sentence(curate: Curate, tmp_path: Path) -> None:
    run = tmp_path / "none"
    message = f"curate: no run in {run}; run `curate embed --run {run}` first\n"
    assert curate("status", "--run", run) == Outcome(1, "", message)
    assert not run.exists()


def test_status_of_a_run_that_runs_and_is_then_killed(curate: Curate, tmp_path: Path) -> None:
    """The real command in another process, looked at while it holds the lock, and after `kill -9`."""
    file = write_pairs(tmp_path / "s.parquet", (pair_row(i) for i in range(400)), row_group_size=20)
    run = tmp_path / "run"
    arguments = ["--manifest", "pickapic_v2", "--source", str(file), "--models", MODELS, "--part-images", "4"]
    command = [sys.executable, "-m", "curate.cli", "embed", "--device", "cpu", *arguments, "--run", str(run)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        while not (run / "parts" / "part-00001.json").exists() and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGSTOP)  # it goes on holding the lock
        try:
            assert is_locked(Run(run))
            report = json.loads(curate("status", "--run", run, "--json").out)
            assert (report["state"], report["images"], report["parts"]) == ("running", 401, 40)
            assert 2 <= report["parts_done"] < 40
        finally:
            process.kill()
    outcome = curate("status", "--run", run)
    assert outcome.out.startswith(f"stopped   {run}\nprogress  images ")
    shutil.rmtree(run)
