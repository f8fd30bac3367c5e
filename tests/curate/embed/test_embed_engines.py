"""Real commands, really killed: whatever dies, and wherever the parts run, the tables end the same to the last bit."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.curate.builders import MODELS, pair_row, write_pairs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # each starts the command several times
PARTS = 24
KILLS = 3
# The last bit of a sum depends on how many threads share it: here each worker has one, wherever it is.
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 pairs in 24 row groups, a part each."""
    file = tmp_path_factory.mktemp("source") / "s.parquet"
    return write_pairs(file, (pair_row(i) for i in range(120)), row_group_size=5)


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nobody disturbed."""
    root = tmp_path_factory.mktemp("whole") / "run"
    done = subprocess.run(embed(source, root), capture_output=True, text=True, check=False, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    assert len(markers(root)) == PARTS
    return root


def embed(source: Path, run: Path, *options: object) -> list[str]:
    arguments = ["--manifest", "pickapic_v2", "--source", source, "--models", MODELS, "--part-images", 5]
    return [sys.executable, "-m", "curate.cli", "embed", "--device", "cpu", *map(str, arguments), "--run", str(run)] + [
        str(option) for option in options
    ]


def markers(run: Path) -> list[Path]:
    return list((run / "parts").glob("part-*.json"))


def tables_of(root: Path) -> dict[str, pa.Table]:
    names = ("images", "prompts", "scores", "dropped")
    return {"pairs": pq.read_table(root / "pairs.parquet")} | {name: pq.read_table(root / name) for name in names}


def check_same(run: Path, whole: Path) -> None:
    """Every row and value, and nothing beside them."""
    found = tables_of(run)
    for name, table in tables_of(whole).items():
        assert found[name].equals(table), name
    assert (run / "embed.json").exists()
    assert not list(run.rglob("*.tmp"))


class Command:
    """A `curate embed` at work, with what it says."""

    def __init__(self, arguments: list[str], log: Path) -> None:
        self.log = log
        with log.open("w") as stream:
            self.process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=stream, env=ENVIRONMENT)

    def wait_until(self, true: Callable[[], object]) -> bool:
        """False when the command ended before."""
        while not true():
            if self.process.poll() is not None:
                return False
            time.sleep(0.001)
        return True

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def worker_processes(self) -> list[int]:
        return [int(number) for number in re.findall(r"worker \d+.*: process (\d+)", self.log.read_text())]

    def end(self) -> str:
        assert self.process.wait(timeout=300) == 0, self.log.read_text()
        return self.log.read_text()


def moments(run: Path, seed: int) -> Iterator[Callable[[], object]]:
    """Conditions to kill at: while something is being written, and when so many more parts stand."""
    random_ = random.Random(seed)
    while True:
        yield lambda: list(run.rglob(".*.tmp"))
        more = len(markers(run)) + random_.randint(1, 4)
        yield lambda more=more: len(markers(run)) >= more  # type: ignore[misc]


@pytest.mark.parametrize("workers", [1, 2])
def test_kill_9_at_several_moments_and_again_ends_the_same(
    tmp_path: Path, source: Path, whole: Path, workers: int
) -> None:
    run, kills = tmp_path / "run", 0
    at = moments(run, seed=workers)
    while kills < KILLS:
        command = Command(embed(source, run, "--workers", workers), tmp_path / "log")
        if not command.wait_until(next(at)):
            break
        time.sleep(random.Random(kills).random() / 50)
        command.kill()
        kills += 1
        assert not (run / "embed.json").exists()
    assert kills >= 2, "the run was done before it could be killed"
    Command(embed(source, run, "--workers", workers), tmp_path / "log").end()
    check_same(run, whole)


def test_a_worker_killed_mid_run_costs_nothing_but_time(tmp_path: Path, source: Path, whole: Path) -> None:
    command = Command(embed(source, tmp_path / "run", "--workers", 2), tmp_path / "log")
    assert command.wait_until(lambda: markers(tmp_path / "run"))
    victim = command.worker_processes()[0]
    os.kill(victim, signal.SIGKILL)
    said = command.end()
    assert "worker 0 on cpu died (killed by SIGKILL)" in said
    assert len(command.worker_processes()) == 3
    check_same(tmp_path / "run", whole)


def test_a_ray_actor_killed_mid_run_costs_nothing_but_time(tmp_path: Path, source: Path, whole: Path) -> None:
    """A Ray cluster of this machine's own, two actors, one killed; the tables are those of the local engine."""
    pytest.importorskip("ray", reason="the extra pairsieve[ray] is not installed")
    command = Command(embed(source, tmp_path / "run", "--engine", "ray", "--workers", 2), tmp_path / "log")
    assert command.wait_until(lambda: markers(tmp_path / "run"))
    os.kill(command.worker_processes()[0], signal.SIGKILL)
    said = command.end()
    assert re.search(r"worker [01] died \(its process or its machine is gone\)", said)
    check_same(tmp_path / "run", whole)


def test_ranges_at_the_same_time_finish_one_run_together(tmp_path: Path, source: Path, whole: Path) -> None:
    """Three overlapping ranges at once, one of them killed and started again; whoever comes last finishes."""
    run = tmp_path / "run"
    ranges = ("0:10", "8:18", "16:99")
    commands = [Command(embed(source, run, "--part-range", one), tmp_path / one) for one in ranges]
    assert commands[0].wait_until(lambda: (run / "parts" / "part-00000.json").exists())
    commands[0].kill()
    for command in commands[1:]:
        command.end()
    assert not (run / "embed.json").exists()
    Command(embed(source, run, "--part-range", "0:10"), tmp_path / "again").end()
    check_same(run, whole)
