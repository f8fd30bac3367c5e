"""What the policy is held to: its start, a moving average of itself, or another model; and what else steers a run."""

from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.train.conftest import Outcome
from tests.train.training.test_run import LORA, equal, log, weights

RunTiny = Callable[..., Outcome]


def config(tmp_path: Path, recipe_file: Path, objective: str, run: str = "") -> Path:
    path = tmp_path / f"{abs(hash(objective + run))}.toml"
    path.write_text(f"[objective]\n{objective}\n" + recipe_file.read_text() + run)
    return path


@pytest.mark.parametrize("kind", [(), LORA], ids=["full", "lora"])
def test_a_moving_reference_that_never_moves_is_the_start_and_a_moving_one_resumes(
    run_tiny: RunTiny, tmp_path: Path, recipe_file: Path, kind: tuple[object, ...]
) -> None:
    def trained(name: str, decay: float, *options: object) -> Path:
        keys = f'reference = "ema"\nreference_decay = {decay}'
        result = run_tiny(tmp_path / name, *kind, "--config", config(tmp_path, recipe_file, keys), *options)
        assert result.code == 0, result.err
        return tmp_path / name

    assert run_tiny(tmp_path / "start", *kind).code == 0
    assert equal(weights(tmp_path / "start"), weights(trained("still", 1.0)))
    whole = trained("whole", 0.5)
    assert not equal(weights(tmp_path / "start"), weights(whole))
    trained("broken", 0.5, "--steps", 2)
    broken = trained("broken", 0.5, "--resume")
    for name in ("weights", "reference"):
        files = [output / "checkpoints" / "step-000004" / f"{name}.safetensors" for output in (whole, broken)]
        assert equal(*(load_file(file) for file in files)), name
    assert log(whole)[3]["drift"] < log(tmp_path / "start")[3]["drift"]  # it follows the policy


@pytest.mark.parametrize("kind", [(), LORA], ids=["full", "lora"])
def test_another_model_may_be_the_reference(
    run_tiny: RunTiny, tmp_path: Path, recipe_file: Path, sd: Path, sdxl: Path, kind: tuple[object, ...]
) -> None:
    def trained(name: str, reference: Path) -> Outcome:
        path = config(tmp_path, recipe_file, f'reference = "{reference}"')
        return run_tiny(tmp_path / name, *kind, "--config", path, "--steps", 2)

    run_tiny(tmp_path / "start", *kind, "--steps", 2)
    assert trained("same", sd).code == 0
    assert equal(weights(tmp_path / "start"), weights(tmp_path / "same"))
    refused = trained("other", sdxl)
    assert (refused.code, "a StableDiffusionXLPipeline; the model is a StableDiffusionPipeline." in refused.err) == (
        1,
        True,
    )


def test_beta_that_aims_resumes_as_it_went_and_is_logged(run_tiny: RunTiny, tmp_path: Path, recipe_file: Path) -> None:
    keys = 'beta = "auto"\nbeta_most = 300.0\npreserve_winner = 0.9\nsft_weight = 0.1\nanchor_weight = 0.1'
    options = (*LORA, "--config", config(tmp_path, recipe_file, keys))
    assert run_tiny(tmp_path / "whole", *options).code == 0
    run_tiny(tmp_path / "broken", *options, "--steps", 2)
    assert run_tiny(tmp_path / "broken", *options, "--resume").code == 0
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "broken"))
    betas = [record["beta"] for record in log(tmp_path / "broken")]
    assert betas == [record["beta"] for record in log(tmp_path / "whole")]
    assert betas[0] == 300


def test_a_run_whose_winner_is_lost_stops(run_tiny: RunTiny, tmp_path: Path, recipe_file: Path) -> None:
    keys = "stop_winner_error_over = 0.5\nstop_winner_error_steps = 2\n"  # any run is over this
    result = run_tiny(tmp_path / "out", *LORA, "--config", config(tmp_path, recipe_file, "beta = 9", keys))
    assert result.code == 1
    assert "times the reference's over the last 2 steps before step 2, over run.stop_winner_error_over" in result.err
    assert "from before is none that is kept" in result.err


def test_a_run_begun_before_a_key_was_there_goes_on(run_tiny: RunTiny, tmp_path: Path) -> None:
    run_tiny(tmp_path / "out", *LORA, "--steps", 2)
    settings = tmp_path / "out" / "run.json"
    stored = settings.read_text()
    older = stored.replace('"beta_space": "prediction",', "").replace('"schedule": "constant",', "")
    assert len(older) < len(stored)
    settings.write_text(older)
    assert run_tiny(tmp_path / "out", *LORA, "--resume").code == 0
