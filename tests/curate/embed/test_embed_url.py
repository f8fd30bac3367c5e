"""`curate embed --run s3://…` on a real server: as on this machine row for row, whatever fails, dies or shares it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch

from curate import cli
from curate.embed import status as status_module
from curate.embed.device.reports import RunProgress
from curate.embed.progress import write_progress
from curate.embed.status import status
from curate.storage.run import RunFiles
from curate.storage.url_folder import UrlFolder
from tests.curate.builders import MODELS, Outcome, pair_row, write_pairs
from tests.curate.object_store import BUCKET, Gate

Curate = Callable[..., Outcome]
PARTS = 12
TABLES = ("images", "prompts", "scores", "dropped", "parts")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """The last bit of a sum depends on how many threads share it: one, here and in the processes that are started."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 pairs in 12 row groups, a part each; an image in the middle is broken."""
    rows = [pair_row(i) for i in range(60)]
    rows[30]["jpg_0"] = rows[29]["jpg_1"] = b"broken"
    return write_pairs(tmp_path_factory.mktemp("source") / "s.parquet", rows, row_group_size=5)


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run in a folder of this machine."""
    root = tmp_path_factory.mktemp("whole") / "run"
    cli.app(embed(source, str(root)), standalone_mode=False)
    return root


def embed(source: Path, run: str, *options: object) -> list[str]:
    shared = ["--manifest", "pickapic_v2", "--models", MODELS, "--device", "cpu", "--scorers", "clip"]
    own = ["--source", source, "--part-images", 5, "--run", run, *options]
    return ["embed", *shared, *map(str, own)]


def started(arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
    """The real command in a process of its own."""
    with log.open("w") as stream:
        return subprocess.Popen(
            [sys.executable, "-m", "curate.cli", *arguments],
            stdout=subprocess.DEVNULL,
            stderr=stream,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )


def url(name: str) -> str:
    return f"s3://{BUCKET}/runs/{name}"


def markers(run: str) -> list[str]:
    return [name for name in UrlFolder(run).names("parts") if name.startswith("part-")]


def wait_for_markers(run: str, count: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until so many parts stand that the process has computed."""
    while len(markers(run)) < count:
        assert process.poll() is None, log.read_text()
        time.sleep(0.02)


def puts(gate: Gate) -> list[str]:
    paths = [path.partition("?")[0] for method, path, _ in gate.requests if method == "PUT"]
    return ["/".join(path.rsplit("/", 2)[1:]) for path in paths]


def check_same(curate: Curate, run: str, whole: Path, folder: Path) -> None:
    """Fetched, every table is that of the run on this machine to the last byte, and nothing is beside them."""
    done = curate("fetch", run, "--run", folder)
    assert done.code == 0, done.err
    for name in ("pairs.parquet", *(f"{table}/{path.name}" for table in TABLES for path in (whole / table).iterdir())):
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
    for table in TABLES:
        names = {path.name for path in (whole / table).iterdir()}
        assert {path.name for path in (folder / table).iterdir()} == names == set(UrlFolder(run).names(table))


def test_a_run_at_s3_is_the_run_on_this_machine(
    curate: Curate, gate: Gate, source: Path, whole: Path, tmp_path: Path
) -> None:
    run = url("whole")
    done = curate(*embed(source, run, "--json"))
    assert done.code == 0, done.err
    summary = json.loads((whole / "embed.json").read_text())
    assert {**json.loads(done.out), "computed": None} == {**summary, "computed": None}
    report = json.loads(curate("status", "--run", run, "--json").out)
    assert (report["run"], report["state"], report["parts_done"]) == (run, "finished", PARTS)
    check_same(curate, run, whole, tmp_path / "run")
    assert curate("rank", "--run", tmp_path / "run", "--psi", "clip", "--top", "9").code == 0

    gate.requests.clear()
    again = curate(*embed(source, run, "--json", "--parity", 10))
    assert json.loads(again.out)["parts_computed"] == 0
    assert f"{run} holds parts of this run; the sound ones are kept" in again.err
    assert sorted(puts(gate)) == ["whole/embed.json", "whole/parity.json"]
    parity = json.loads(UrlFolder(run).read("parity.json"))
    assert (parity["images"], parity["pairs"]) == (10, 9)
    other = curate(*embed(source, run, "--decode", "scaled"))
    assert f"{run} was made under other settings: decode was 'pillow', now 'scaled'" in other.err


def test_failures_that_pass_are_tried_again(
    curate: Curate, gate: Gate, source: Path, whole: Path, tmp_path: Path
) -> None:
    run = url("failing")
    gate.fail(503, 500, 429, path="images/part-00003.parquet", method="PUT")
    done = curate(*embed(source, run))
    assert done.code == 0, done.err
    assert done.err.count(f"{run}/images/part-00003.parquet: ") == 3
    assert gate.failures == []
    gate.fail(500, 503, path="images/part-00003.parquet")
    check_same(curate, run, whole, tmp_path / "run")
    assert gate.failures == []


def test_failures_that_last_stop_the_run_and_it_goes_on(curate: Curate, gate: Gate, source: Path) -> None:
    run = url("lasting")
    gate.fail(*[503] * 90, path="scores/part-00002.parquet", method="PUT")
    stopped = curate(*embed(source, run))
    last = stopped.err.splitlines()[-1]
    assert stopped.code == 1
    assert last.startswith(f"curate: cannot write {run}/scores/part-00002.parquet: ")
    assert last.endswith("; run again to go on")
    report = json.loads(curate("status", "--run", run, "--json").out)
    assert (report["state"], report["parts"], report["parts_done"]) == ("stopped", PARTS, 2)
    assert report["error"].startswith(f"cannot write {run}/scores/part-00002.parquet: ")
    gate.fail()
    assert json.loads(curate(*embed(source, run, "--json")).out)["parts_computed"] == PARTS - 2


@pytest.mark.slow
def test_kill_9_and_a_damaged_part(curate: Curate, gate: Gate, source: Path, whole: Path, tmp_path: Path) -> None:
    """Killed while it writes; what stands is kept, a part of another size is named, and the end is the same."""
    run = url("killed")
    process = started(embed(source, run), tmp_path / "log")
    try:
        wait_for_markers(run, 2, process, tmp_path / "log")
    finally:
        process.kill()
        process.wait()
    kept = markers(run)
    assert 2 <= len(kept) < PARTS
    report = json.loads(curate("status", "--run", run, "--json").out)
    assert (report["state"], report["parts_done"]) == ("running", len(kept))  # nobody can know yet that it is not
    refused = f"curate: `curate embed` has not finished in {run}; run it again, it goes on where it stopped\n"
    assert curate("fetch", run, "--run", tmp_path / "run").err == refused
    UrlFolder(run).write("images/part-00001.parquet", b"damaged")
    gate.requests.clear()
    done = curate(*embed(source, run, "--json"))
    assert json.loads(done.out)["parts_computed"] == PARTS - len(kept) + 1
    assert f"{run}: part-00001 is damaged, not as its marker parts/part-00001.json says" in done.err
    assert f"note: a process wrote to {run} " in done.err
    assert not {f"images/{name.replace('json', 'parquet')}" for name in kept if "00001" not in name} & set(puts(gate))
    check_same(curate, run, whole, tmp_path / "run")


@pytest.mark.slow
def test_a_ray_cluster_and_a_process_finish_one_run_together(
    curate: Curate, gate: Gate, source: Path, whole: Path, tmp_path: Path
) -> None:
    """Two actors of a Ray cluster of this machine's own, and this process, whose range overlaps theirs, at once."""
    pytest.importorskip("ray", reason="the extra pairsieve[ray] is not installed")
    run = url("shared")
    process = started(embed(source, run, "--part-range", "0:8", "--engine", "ray", "--workers", 2), tmp_path / "log")
    try:
        wait_for_markers(run, 1, process, tmp_path / "log")
        assert curate(*embed(source, run, "--part-range", "4:99")).code == 0
        assert process.wait(timeout=300) == 0, (tmp_path / "log").read_text()
    finally:
        process.kill()
    assert "on a Ray cluster: 2 × " in (tmp_path / "log").read_text()
    assert json.loads(curate("status", "--run", run, "--json").out)["state"] == "finished"
    check_same(curate, run, whole, tmp_path / "run")


@pytest.fixture
def remote() -> Iterator[RunFiles]:
    """A run in memory that has been claimed, and nothing else."""
    run = RunFiles(UrlFolder("memory://status/run"))
    run.claim({"device": "cpu", "precision": "fp32"}, {})
    yield run
    fsspec.filesystem("memory").rm("/status", recursive=True)


def after(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """It is later when `status` asks."""
    now = time.time() + seconds
    monkeypatch.setattr(status_module.time, "time", lambda: now)


@pytest.mark.parametrize(
    ("written", "seconds", "finished", "state"),
    [
        ("running", 5, False, "running"),
        ("running", 65, False, "stopped"),
        ("running", 5, True, "running"),  # parts were damaged, and are computed again
        ("stopped", 5, False, "stopped"),
        ("finished", 5, False, "running"),  # one range is done; others may be at theirs
        ("finished", 65, False, "stopped"),
        ("finished", 5, True, "finished"),
        ("finished", 9999, True, "finished"),
    ],
)
def test_the_state_of_a_run_that_nobody_can_lock(
    remote: RunFiles, monkeypatch: pytest.MonkeyPatch, written: str, seconds: float, finished: bool, state: str
) -> None:
    write_progress(remote.folder, written, {"device": "cpu"}, RunProgress(10, 2))
    if finished:
        remote.mark_finished({})
    remote.folder.write("parts/part-00001.json", b"{}")
    remote.folder.write("parts/plan.json", b"{}")
    after(monkeypatch, seconds)
    found = status(remote)
    assert (found["run"], found["state"]) == ("memory://status/run", state)
    assert state == "finished" or found["parts_done"] == 1


def test_a_run_without_progress_or_settings(remote: RunFiles, curate: Curate) -> None:
    assert status(remote) == {
        "run": "memory://status/run",
        "state": "stopped",
        "settings": {"device": "cpu", "precision": "fp32"},
    }
    none = "memory://status/none"
    assert curate("status", "--run", none).err == f"curate: no run in {none}; run `curate embed --run {none}` first\n"


def test_progress_is_written_while_models_load_and_seldom_to_a_url(
    remote: RunFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    from curate.embed import progress

    written: list[Any] = []
    monkeypatch.setattr(progress, "write_progress", lambda *arguments: written.append(arguments))
    monkeypatch.setattr(progress, "TICK_SEC", 0.001)
    with progress.kept_progress(remote.folder, RunProgress(1, 1), {}):
        time.sleep(0.05)
    assert len(written) == 1
    monkeypatch.setattr(progress, "REMOTE_EVERY_SEC", 0.001)
    with progress.kept_progress(remote.folder, RunProgress(1, 1), {}):
        while len(written) < 4:
            time.sleep(0.001)
