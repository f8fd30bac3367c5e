"""fp16 as a GPU trains, but on the CPU: autocast and scaler are torch's own, which accelerate offers for GPUs only."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from tests.train.conftest import Outcome
from tests.train.training.steering.test_guard import spoiled
from tests.train.training.test_run import equal, log, weights
from train.config import Recipe
from train.training import loop

RunTiny = Callable[..., Outcome]
BETA = 3e4  # at which gradients in half overflow at 65536 and at some scales below
Half = Callable[[float], None]


@pytest.fixture
def half(monkeypatch: pytest.MonkeyPatch) -> Half:
    """Runs train in fp16, their scale looked for from the one given."""
    real = loop.open_accelerator

    def begin_at(scale: float) -> None:
        def opened(recipe: Recipe) -> Accelerator:
            accelerator = real(recipe)
            accelerator.state._mixed_precision, accelerator.native_amp = "fp16", True
            accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
            return accelerator

        monkeypatch.setattr(loop, "open_accelerator", opened)

    return begin_at


def test_the_scale_is_found_before_the_first_step(run_tiny: RunTiny, tmp_path: Path, half: Half) -> None:
    half(65536.0)
    found = run_tiny(tmp_path / "found", "--beta", BETA, "--steps", 3)
    scale = log(tmp_path / "found")[0]["loss_scale"]
    assert 1 < scale < 65536
    assert f"fp16's loss scale begins at {scale:g}, found on the first micro-batch." in found.err
    assert found.json()["skipped_steps"] == 0

    half(scale)  # as if it had been known: nothing is left of the search
    run_tiny(tmp_path / "resumed", "--beta", BETA, "--steps", 2)
    half(65536.0)  # nor is it looked for again
    resumed = run_tiny(tmp_path / "resumed", "--beta", BETA, "--steps", 3, "--resume")
    assert "loss scale" not in resumed.err
    assert [step["loss_scale"] for step in log(tmp_path / "resumed")] == [scale] * 3
    assert equal(weights(tmp_path / "resumed"), weights(tmp_path / "found"))


def test_a_loss_without_a_number_has_no_scale(
    run_tiny: RunTiny, tmp_path: Path, half: Half, monkeypatch: pytest.MonkeyPatch
) -> None:
    half(65536.0)
    spoiled(monkeypatch, range(100))
    result = run_tiny(tmp_path / "out", "--steps", 1)
    assert "fp16's loss scale begins at 65536" in result.err
    assert "Step 1 skipped: the loss is nan." in result.err
