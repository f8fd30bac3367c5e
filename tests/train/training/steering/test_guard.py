import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import DistributedType

from tests.train.conftest import Outcome
from train.config import load_recipe
from train.errors import DivergenceError, MemoryFullError, SettingsError
from train.sample.generate import enough_memory_to_draw
from train.training import loop
from train.training.steering.guard import Guard, enough_memory_to_train

RunTiny = Callable[..., Outcome]


def test_what_is_not_finite_or_too_large_is_a_fault_and_is_counted() -> None:
    guard = Guard(grad_norm_limit=5.0)
    assert guard.fault(0.7, 1.0) is None
    assert guard.fault(math.nan, 1.0) == "the loss is nan"
    assert guard.fault(0.7, math.inf) == "the gradient norm is inf"
    assert guard.fault(0.7, 5.1) == "the gradient norm is 5.1, over optimizer.skip_grad_norm_over 5"
    assert (guard.skipped, guard.in_a_row) == (3, 3)
    assert guard.fault(0.7, 5.0) is None
    assert (guard.skipped, guard.in_a_row) == (3, 0)
    assert Guard(None).fault(0.7, 1e9) is None


def test_steps_at_too_large_a_loss_scale_are_counted_but_not_in_a_row() -> None:
    guard, scaler = Guard(None), torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale(torch.ones(()))  # a scale is there from its first use on
    assert guard.fault(0.7, math.inf, scaler) == "the gradient norm is inf at fp16's loss scale 4, which is halved"
    assert (guard.skipped, guard.in_a_row) == (1, 0)
    assert guard.fault(math.nan, math.nan, scaler) == "the loss is nan"
    assert guard.in_a_row == 1
    scaler.update(1.0)
    assert guard.fault(0.7, math.inf, scaler) == "the gradient norm is inf"
    assert guard.in_a_row == 2


def test_ten_faults_in_a_row_end_the_run() -> None:
    guard = Guard(None, skipped=20, in_a_row=8)
    guard.fault(math.nan, 1.0)
    guard.stop_if_diverged(9, "the loss is nan", None)
    guard.fault(math.nan, 1.0)
    with pytest.raises(DivergenceError) as caught:
        guard.stop_if_diverged(10, "the loss is nan", Path("out/checkpoints/step-000002"))
    assert str(caught.value) == (
        "10 steps in a row were skipped, the last of them step 10: the loss is nan; the last good checkpoint is"
        " out/checkpoints/step-000002. Lower optimizer.learning_rate or objective.beta and train into another --output."
    )


def test_a_winner_whose_error_explodes_ends_the_run_and_a_checkpoint_from_before_is_named() -> None:
    guard = Guard(None, winner_error_limit=1.5, winner_error_steps=3)
    asked: list[int] = []

    def before(step: int) -> Any:
        asked.append(step)
        return SimpleNamespace(folder=Path("out/checkpoints/step-000002"))

    guard.stop_if_winner_is_lost(1, math.nan, 0.1, before)  # not known, as without a reference
    for step, error in ((2, 0.9), (3, 0.1), (4, 0.1)):  # 1.1 / 0.75 over three steps
        guard.stop_if_winner_is_lost(step, error, 0.25, before)
    guard.stop_if_winner_is_lost(5, 0.3, 0.25, before)  # the first has left the window
    guard.stop_if_winner_is_lost(6, 0.46, 0.25, before)
    with pytest.raises(DivergenceError) as caught:
        guard.stop_if_winner_is_lost(7, 0.46, 0.25, before)
    assert asked == [4]
    assert "1.63 times the reference's over the last 3 steps before step 7" in str(caught.value)
    assert "the newest checkpoint from before is out/checkpoints/step-000002." in str(caught.value)
    for step in range(9):
        Guard(None).stop_if_winner_is_lost(step, 100.0, 0.1, before)  # nobody asked for it


def spoiled(monkeypatch: pytest.MonkeyPatch, steps: range) -> None:
    """NaN in the policy's errors of these steps, counted from 0, of runs with one micro-step a step."""
    real, calls = loop.pair_errors, iter(range(10**6))

    def errors(*arguments: object) -> object:
        found = real(*arguments)  # type: ignore[arg-type]
        return type(found)(
            found.policy_w * (math.nan if next(calls) in steps else 1.0), *list(vars(found).values())[1:]
        )

    monkeypatch.setattr(loop, "pair_errors", errors)


def test_a_step_without_a_number_is_skipped_named_and_logged_as_json(
    run_tiny: RunTiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoiled(monkeypatch, range(1, 2))
    result = run_tiny(tmp_path / "out", "--batch-pairs", 2, "--steps", 3)
    assert result.code == 0
    assert "Step 2 skipped: the loss is nan." in result.err
    lines = (tmp_path / "out" / "log.jsonl").read_text().splitlines()
    records = [json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON")) for line in lines]
    assert [record["loss"] is None for record in records] == [False, True, False]
    assert [record["skipped_steps"] for record in records] == [0, 1, 1]
    assert result.json()["skipped_steps"] == 1
    assert math.isfinite(result.json()["loss"])
    assert "| steps skipped | 1 |" in (tmp_path / "out" / "model" / "README.md").read_text()


def test_a_skipped_step_leaves_the_weights_alone(
    run_tiny: RunTiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.train.training.test_run import equal, weights

    run_tiny(tmp_path / "one", "--batch-pairs", 2, "--steps", 1)
    spoiled(monkeypatch, range(1, 2))
    run_tiny(tmp_path / "two", "--batch-pairs", 2, "--steps", 2)
    assert equal(weights(tmp_path / "one"), weights(tmp_path / "two"))


def test_a_run_too_short_to_be_stopped_ends_though_no_step_was_taken(
    run_tiny: RunTiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoiled(monkeypatch, range(3))
    result = run_tiny(tmp_path / "out", "--batch-pairs", 2, "--steps", 3)
    assert (result.code, result.json()["skipped_steps"]) == (0, 3)
    assert "| loss, mean of the last steps | nan |" in (tmp_path / "out" / "model" / "README.md").read_text()


def test_ten_skipped_steps_stop_with_the_last_good_checkpoint(
    run_tiny: RunTiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoiled(monkeypatch, range(2, 100))
    result = run_tiny(tmp_path / "out", "--batch-pairs", 2, "--steps", 50)
    assert (result.code, result.out) == (1, "")
    last = result.err.splitlines()[-1]
    assert last.startswith("train: 10 steps in a row were skipped, the last of them step 12: the loss is nan;")
    assert f"the last good checkpoint is {tmp_path}/out/checkpoints/step-000010." in last
    assert sum("skipped: " in line for line in result.err.splitlines()) == 10
    assert not (tmp_path / "out" / "model").exists()


def test_a_limit_on_the_gradient(run_tiny: RunTiny, tmp_path: Path, recipe_file: Path) -> None:
    config = tmp_path / "recipe.toml"
    config.write_text(recipe_file.read_text().replace("[run]", "skip_grad_norm_over = 1e-9\n[run]"))
    result = run_tiny(tmp_path / "out", "--config", config, "--steps", 2)
    assert result.json()["skipped_steps"] == 2
    assert "over optimizer.skip_grad_norm_over 1e-09." in result.err


def test_another_way_to_spread_weights_is_refused() -> None:
    loop._check_distribution(DistributedType.MULTI_GPU)
    with pytest.raises(SettingsError) as caught:
        loop._check_distribution(DistributedType.FSDP)
    assert str(caught.value) == (
        "accelerate's own FSDP is not supported; launch without it, and set run.fsdp = true in a file"
        " given by --config, which spreads weights, gradients and moments over the processes."
    )


def test_too_little_memory_says_what_to_change() -> None:
    recipe = load_recipe("sd15", None, {"run": {"micro_batch_pairs": 8, "gradient_checkpointing": True}})
    with pytest.raises(MemoryFullError) as caught, enough_memory_to_train(recipe):
        torch.empty(2**60, dtype=torch.uint8)  # no machine has it
    assert str(caught.value) == (
        "There is not enough memory for this recipe: lower run.micro_batch_pairs from 8, which changes results by"
        ' rounding at most; or set optimizer.name = "adafactor"; or train a LoRA (--lora-rank); or lower'
        " data.resolution_px from 512. With --resume, run.micro_batch_pairs and run.gradient_checkpointing alone may"
        " change; for the others name another --output."
    )
    with pytest.raises(RuntimeError, match="another"), enough_memory_to_train(recipe):
        raise RuntimeError("another error")


@pytest.mark.parametrize(
    ("batch", "change"),
    [
        (16, "lower --batch from 16, which changes pictures by rounding at most, or free some"),
        (1, "free some, or take a smaller model"),
    ],
)
def test_too_little_memory_to_draw_says_what_to_change(batch: int, change: str) -> None:
    with pytest.raises(MemoryFullError) as caught, enough_memory_to_draw("tuned", batch):
        torch.empty(2**60, dtype=torch.uint8)
    assert str(caught.value) == (f"There is not enough memory to draw with tuned: {change}; run again, and it goes on.")
    with pytest.raises(RuntimeError, match="another"), enough_memory_to_draw("tuned", batch):
        raise RuntimeError("another error")
