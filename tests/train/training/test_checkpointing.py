"""A run that is told to end, and when checkpoints are written by the clock."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.train.conftest import Outcome
from tests.train.training.test_run import LORA, equal, log, weights
from train.training import checkpointing, loop
from train.training.checkpointing import StopRequest

RunTiny = Callable[..., Outcome]


def told_to_end(monkeypatch: pytest.MonkeyPatch, micro_step: int, number: signal.Signals = signal.SIGTERM) -> None:
    """The process gets a signal within this micro-step, counted from 0."""
    real, calls = loop.pair_errors, iter(range(10**6))

    def errors(*arguments: object) -> object:
        if next(calls) == micro_step:
            os.kill(os.getpid(), number)
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "pair_errors", errors)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize(("micro_step", "done"), [(2, 1), (3, 2), (4, 2)])  # two of them a step
def test_a_run_told_to_end_saves_its_steps_and_goes_on_as_if_it_had_not(
    run_tiny: RunTiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, micro_step: int, done: int,
    number: signal.Signals, code: int,
) -> None:  # fmt: skip
    whole, broken, before = tmp_path / "whole", tmp_path / "broken", signal.getsignal(number)
    run_tiny(whole, *LORA)
    told_to_end(monkeypatch, micro_step, number)
    ended = run_tiny(broken, *LORA)
    assert (ended.code, ended.out) == (code, "")
    assert ended.err.splitlines()[-1] == (
        f"train: stopped by {number.name} after step {done} of 4; it is saved, and the same command with --resume"
        " goes on from there."
    )
    assert max(path.name for path in (broken / "checkpoints").iterdir()) == f"step-00000{done}"
    assert signal.getsignal(number) is before
    assert run_tiny(broken, *LORA, "--resume").code == 0
    assert equal(weights(whole), weights(broken))
    assert [line["loss"] for line in log(whole)] == [line["loss"] for line in log(broken)]


def test_a_run_told_to_end_in_its_first_step_has_nothing_to_save(
    run_tiny: RunTiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told_to_end(monkeypatch, 0)
    ended = run_tiny(tmp_path / "out")
    assert ended.err.splitlines()[-1] == "train: stopped by SIGTERM before the first step was done."
    assert not (tmp_path / "out" / "checkpoints").exists()


def test_ctrl_c_again_ends_at_once_but_not_when_a_launcher_passes_it_on(monkeypatch: pytest.MonkeyPatch) -> None:
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked
        monkeypatch.setattr(checkpointing, "INSIST_SEC", -1.0)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(("setting", "kept"), [("0", ["1", "2", "3"]), ("1000", ["2", "3"])])
def test_a_checkpoint_older_than_so_many_minutes_is_followed_by_another(
    run_tiny: RunTiny, tmp_path: Path, recipe_file: Path, setting: str, kept: list[str]
) -> None:
    config = tmp_path / "recipe.toml"
    config.write_text(f"{recipe_file.read_text()}checkpoint_minutes = {setting}\nkeep_checkpoints = 9\n")
    assert run_tiny(tmp_path / "out", "--config", config, "--steps", 3).code == 0
    assert sorted(path.name[-1] for path in (tmp_path / "out" / "checkpoints").iterdir()) == kept


def test_another_micro_batch_may_go_on_and_says_so(run_tiny: RunTiny, tmp_path: Path, recipe_file: Path) -> None:
    run_tiny(tmp_path / "whole", *LORA)
    run_tiny(tmp_path / "out", *LORA, "--steps", 2)
    config = tmp_path / "narrow.toml"
    config.write_text(recipe_file.read_text().replace("micro_batch_pairs = 2", "micro_batch_pairs = 1"))
    resumed = run_tiny(tmp_path / "out", *LORA, "--config", config, "--resume")
    assert resumed.code == 0, resumed.err
    assert "recipe.run.micro_batch_pairs: was 2, now 1; that changes results by rounding alone.\n" in resumed.err
    losses = [[line["loss"] for line in log(tmp_path / name)] for name in ("whole", "out")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.slow
def test_two_processes_told_to_end_stop_after_the_same_step(
    run_tiny: RunTiny, tmp_path: Path, sd: Path, shards: Path, recipe_file: Path
) -> None:
    output = tmp_path / "out"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    launch += ["-m", "train.cli", "run", "--shards", str(shards), "--model", str(sd), "--preset", "demo"]
    launch += ["--config", str(recipe_file), "--output", str(output), "--steps", "5000"]
    process = subprocess.Popen(
        launch,
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while not (output / "checkpoints" / "step-000002").exists() and process.poll() is None:
            time.sleep(0.01)
        process.terminate()  # the launcher passes it on
        _, err = process.communicate()
    finally:
        process.kill()
    assert process.returncode != 0
    (line,) = {line for line in err.splitlines() if line.startswith("train: stopped by SIGTERM after step ")}
    done = int(line.split(" of 5000")[0].rpartition(" ")[2])
    assert (output / "checkpoints" / f"step-{done:06d}" / "state.json").exists()
    assert not (output / "summary.json").exists()
