"""Engines hand out every task, forward reports, and survive dead workers: with real processes, really killed."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from curate.embed.engines.dispatcher import DEATHS, Dispatcher
from curate.embed.engines.processes import Processes, Serial, local_engine
from curate.errors import RunError, SourceError
from tests.curate.engine_work import Item, Touch, items
from tests.demo import ROOT

TWO = Processes(("cpu", "cpu"))


def dispatcher(count: int, done: set[str] | None = None) -> Dispatcher[Item]:
    return Dispatcher(items(count), lambda task: task.name in (done or set()))


def test_desk_hands_out_each_task_once_in_order() -> None:
    handing = dispatcher(3)
    assert [task and task.name for task in (handing.next(n % 2) for n in range(4))] == [
        "item-0",
        "item-1",
        "item-2",
        None,
    ]
    assert handing.left == 3
    for worker in (0, 1):
        handing.finished(worker)
    assert handing.left == 0


def test_desk_takes_back_what_the_dead_left_before_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    done: set[str] = set()
    handing = dispatcher(5, done)
    for _ in range(3):
        handing.next(0)
    done.add("item-0")
    assert handing.lost(0, "worker 0", "killed by SIGKILL")
    assert capsys.readouterr().err == "worker 0 died (killed by SIGKILL); item-1, item-2 will be computed again\n"
    assert [task.name for task in (handing.next(1) for _ in range(4)) if task] == [f"item-{n}" for n in (1, 2, 3, 4)]


def test_desk_gives_up_a_task_that_kills() -> None:
    handing = dispatcher(2)
    for _ in range(DEATHS - 1):
        handing.next(0)
        handing.lost(0, "worker 0", "killed by SIGSEGV")
    handing.next(0)
    with pytest.raises(RunError) as caught:
        handing.lost(0, "worker 0", "killed by SIGSEGV")
    assert str(caught.value) == (
        "item-0 was in hand when 3 workers died (killed by SIGSEGV); if memory ran out, take a smaller --batch or "
        "fewer --workers, or see the kernel's log; run again to go on with the parts that are left"
    )


def test_desk_gives_up_a_worker_that_dies_before_it_takes_a_task() -> None:
    handing = dispatcher(2)
    assert [handing.lost(0, "worker 0", "exit code 1") for _ in range(DEATHS)] == [True] * (DEATHS - 1) + [False]
    handing.next(1)
    assert [handing.lost(1, "worker 1", "exit code 1") for _ in range(2)] == [True, True]


def test_one_device_needs_no_other_process(tmp_path: Path) -> None:
    engine = local_engine(("cpu",))
    assert engine == Serial("cpu")
    work, reports = Touch(tmp_path), list[Any]()
    engine.run(work, items(2), reports.append)
    assert work.processes() == {os.getpid()}
    assert reports == [(kind, f"item-{n}", "cpu") for n in (0, 1) for kind in ("began", "ended")]


def test_two_workers_share_the_tasks_as_they_come(tmp_path: Path) -> None:
    """Each report arrives; the parts are not dealt beforehand, so both workers have some."""
    engine = local_engine(("left", "right"))
    work, reports = Touch(tmp_path, seconds=0.2), list[Any]()
    engine.run(work, items(12), reports.append)
    assert all(work.is_done(task) for task in items(12))
    assert sorted(reports) == sorted((kind, r[1], r[2]) for r in reports for kind in ("began", "ended") if r[0] == kind)
    assert [sum(kind == "ended" for kind, *_ in reports), len(reports)] == [12, 24]
    assert {device for *_, device in reports} == {"left", "right"}
    assert len(work.processes()) == 2
    assert os.getpid() not in work.processes()


def test_a_killed_worker_is_replaced_and_its_task_handed_out_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work, reports = Touch(tmp_path, fatal=(("item-2", 1),), seconds=0.05), list[Any]()
    TWO.run(work, items(6), reports.append)
    assert all(work.is_done(task) for task in items(6))
    assert [name for kind, name, _ in reports if kind == "ended"].count("item-2") == 1
    assert [name for kind, name, _ in reports if kind == "began"].count("item-2") == 2
    told = [line for line in capsys.readouterr().err.splitlines() if "died" in line]
    assert len(told) == 1
    assert told[0].endswith("on cpu died (killed by SIGKILL); item-2 will be computed again")


def test_a_device_that_fails_is_a_death(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another process may use it again, and the other devices go on."""
    work = Touch(tmp_path, lost=(("item-2", 1),), seconds=0.05)
    TWO.run(work, items(6), lambda _: None)
    assert all(work.is_done(task) for task in items(6))
    (told,) = (line for line in capsys.readouterr().err.splitlines() if "died" in line)
    failed = "on cpu died (cpu failed (CUDA error: unspecified launch failure)); "
    assert failed in told
    again = told.partition(failed)[2].removesuffix(" will be computed again").split(", ")
    assert "item-2" in again  # and what else the worker had in hand


def test_a_task_that_keeps_killing_ends_the_run_in_one_sentence(tmp_path: Path) -> None:
    work = Touch(tmp_path, fatal=(("item-1", DEATHS),))
    with pytest.raises(RunError, match=r"item-1 was in hand when 3 workers died \(killed by SIGKILL\); "):
        TWO.run(work, items(3), lambda _: None)


def test_a_worker_that_never_begins_is_done_without(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One that dies when it loads is given up after three deaths; with nobody left the run says so."""
    with pytest.raises(RunError, match=r"no worker is left, but 2 parts are; "):
        Processes(("cpu",)).run(Touch(tmp_path, idle_deaths=DEATHS), items(2), lambda _: None)
    said = capsys.readouterr().err.splitlines()
    assert said[-1] == "worker 0 on cpu died 3 times before it took a part: going on without it"
    assert sum("died (exit code 3)" in line for line in said) == DEATHS


def test_what_a_worker_raises_is_raised_here_and_nobody_stays(tmp_path: Path) -> None:
    work, reports = Touch(tmp_path, failing="item-1", seconds=0.05), list[Any]()
    with pytest.raises(SourceError) as caught:
        TWO.run(work, items(50), reports.append)
    assert str(caught.value) == "item-1 is bad; mend it"
    assert multiprocessing.active_children() == []
    assert "in a worker:" in caught.value.__notes__[0]
    assert not work.is_done(Item("item-49"))


def test_a_worker_starts_also_for_no_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It may have something to check."""
    TWO.run(Touch(tmp_path), [], lambda _: None)
    assert capsys.readouterr().err.count("worker ") == 1


def wait_until(true: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def is_running(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_workers_end_with_their_parent(tmp_path: Path) -> None:
    """kill -9 leaves nobody who would write beside the next run."""
    code = (
        "import sys; from pathlib import Path; from curate.embed.engines.processes import Processes\n"
        "from tests.curate.engine_work import Touch, items\n"
        "if __name__ == '__main__':\n"
        "    Processes(('cpu', 'cpu')).run(Touch(Path(sys.argv[1]), seconds=0.3), items(500), lambda _: None)\n"
    )
    script = tmp_path / "driver.py"
    script.write_text(code)
    (tmp_path / "out").mkdir()
    work = Touch(tmp_path / "out")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    driver = subprocess.Popen([sys.executable, str(script), str(tmp_path / "out")], env=environment)
    try:
        wait_until(lambda: len(work.processes()) == 2)
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    workers = work.processes()
    wait_until(lambda: not any(map(is_running, workers)))
