"""What a run tells while it goes and when it is done: validation, pictures, the card, what was cut and how."""

import importlib.util
import itertools
import json
import sys
import textwrap
import time
import tomllib
from collections.abc import Callable
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.tensorflow_stub.io.gfile import LocalFileSystem

from tests.train import tiny
from tests.train.conftest import Outcome, Train
from tests.train.training.test_run import LORA, equal, log, weights
from train.config import as_toml, load_recipe, preset_names
from train.errors import StorageError
from train.terminal import silence_libraries
from train.training.output.log import RunLog, mean_of_last, read_log

RunTiny = Callable[..., Outcome]


def with_settings(tmp_path: Path, recipe_file: Path, data: str = "", run: str = "") -> Path:
    path = tmp_path / "recipe.toml"
    text = recipe_file.read_text().replace("[data]\n", f"[data]\n{data}\n")
    path.write_text(f"{text}{run}\n")
    return path


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("kind", [(), LORA], ids=["full", "lora"])
def test_validation_is_logged_and_changes_no_weight(
    run_tiny: RunTiny, tmp_path: Path, recipe_file: Path, kind: tuple[object, ...], precision: str
) -> None:
    data, run = "validation_pairs = 2", f'mixed_precision = "{precision}"'
    quiet = with_settings(tmp_path, recipe_file, data, run)
    run_tiny(tmp_path / "quiet", *kind, "--config", quiet)
    told = with_settings(
        tmp_path, recipe_file, data, f"{run}\nvalidate_every_steps = 2\nsample_every_steps = 2\nsample_prompts = 2"
    )
    result = run_tiny(tmp_path / "told", *kind, "--config", told)
    assert result.code == 0, result.err
    assert equal(weights(tmp_path / "quiet"), weights(tmp_path / "told"))
    records = log(tmp_path / "told")
    assert ["validation_loss" in record for record in records] == [False, True, False, True]
    assert 0 <= records[3]["validation_implicit_accuracy"] <= 1
    assert records[1]["validation_loss"] != records[3]["validation_loss"]
    pictures = sorted((tmp_path / "told" / "samples").iterdir())
    assert [path.name for path in pictures] == ["step-000002.png", "step-000004.png"]
    first, last = (Image.open(path) for path in pictures)
    assert first.size == last.size
    assert first.tobytes() != last.tobytes()
    events = EventAccumulator(str(tmp_path / "told" / "tensorboard"))
    events.Reload()
    assert [(one.step, one.width) for one in events.Images("samples")] == [(2, first.width), (4, first.width)]


def test_validation_without_pairs_is_refused(run_tiny: RunTiny, tmp_path: Path, recipe_file: Path) -> None:
    config = with_settings(tmp_path, recipe_file, run="validate_every_steps = 2")
    result = run_tiny(tmp_path / "out", "--config", config)
    assert (result.code, result.out) == (2, "")
    assert result.err == (
        "train: `run.validate_every_steps` needs pairs to validate on; set `data.validation_pairs`.\n"
    )


def test_the_recipe_is_printed_before_the_first_step(run_tiny: RunTiny, tmp_path: Path) -> None:
    lines = run_tiny(tmp_path / "out", "--steps", 1, "--beta", 77).err.splitlines()
    shown = lines.index(
        "3 pairs a step: 1 process(es), 2 micro-step(s) of at most 2; 1 steps over 6 pairs: 0.5 epochs."
    )
    assert lines.index("beta = 77.0") < shown < next(i for i, line in enumerate(lines) if line.startswith("train 1/1"))


@pytest.mark.parametrize("name", preset_names())
def test_a_printed_recipe_is_one_that_can_be_read(tmp_path: Path, name: str) -> None:
    recipe = load_recipe(name)
    path = tmp_path / "printed.toml"
    path.write_text(as_toml(recipe.as_table()))
    assert load_recipe("demo", path) == recipe
    assert tomllib.loads(path.read_text())["model"] == recipe.model


def test_long_prompts_are_cut_counted_and_reported(train: Train, sd: Path, recipe_file: Path, tmp_path: Path) -> None:
    """The tiny tokenizer takes twelve tokens, two of them its own; the longer prompt has fourteen."""
    pictures = tiny.picture("red", 1), tiny.picture("blue", 2)
    samples = [tiny.sample(1, "red box", *pictures), tiny.sample(2, "a very long text", *pictures)]
    shards = tiny.write_shards(tmp_path / "shards", samples)
    options = ("--shards", shards, "--model", sd, "--preset", "demo", "--config", recipe_file, "--steps", 1, "--json")
    for further in ((), ("--no-cache",)):
        result = train("run", *options, *further, "--output", tmp_path / f"out{len(further)}")
        assert "1 of 2 prompts are longer than the text encoder takes; cut there." in result.err.splitlines()
        assert result.json()["prompts_cut"] == 1


def test_sides_of_different_sizes_are_reported(train: Train, sd: Path, recipe_file: Path, tmp_path: Path) -> None:
    samples = tiny.samples(3)
    samples[1] = tiny.sample(2, "red box", tiny.picture("red", 1, (64, 40)), tiny.picture("blue", 2, (16, 16)))
    shards = tiny.write_shards(tmp_path / "shards", samples)
    result = train("run", "--shards", shards, "--model", sd, "--preset", "demo", "--config", recipe_file, "--steps", 1)
    assert result.code == 0
    assert (
        "1 of 3 pairs have sides of different sizes, each scaled and cut at its middle on its own; the first is"
        " 000000002, 64 x 40 and 16 x 16 px." in result.err.splitlines()
    )


def test_the_card_states_data_recipe_and_result(run_tiny: RunTiny, tmp_path: Path, shards: Path) -> None:
    model = Path(run_tiny(tmp_path / "out", *LORA, "--steps", 3).json()["model"])
    card = (model / "README.md").read_text()
    index = json.loads((shards / "shards.json").read_text())
    for entry in index["shards"]:
        assert f"    {entry['sha256']}\n" in card
    assert "| data set | tiny |" in card
    assert "| ranking | name tiny |" in card
    assert "| pairs | 6, 9 images, 3 prompts |" in card
    assert "| trained | a LoRA, objective dpo, 3 steps of 3 pairs |" in card
    assert "    rank = 2\n" in card
    assert card.startswith("---\nbase_model: ")
    code = card.partition("## Load it\n\n")[2].partition("\n\n##")[0].replace('"."', repr(str(model)))
    pipeline: dict[str, Any] = {}
    exec(textwrap.dedent(code).rpartition("\npipeline(")[0], pipeline)  # the last line draws, for a minute
    assert pipeline["pipeline"].get_active_adapters() == ["default_0"]
    with Image.open(model / "curves.png") as picture:
        assert picture.width > 500
        assert len(picture.convert("L").getcolors(10**6) or []) > 10  # something is drawn


def test_what_is_not_finite_is_null_in_the_log(tmp_path: Path) -> None:
    with RunLog(tmp_path, 0) as record:
        record.write(1, {"loss": float("nan"), "grad_norm": float("inf")})
        record.write(2, {"loss": 0.5, "grad_norm": 2.0})
    first, second = (json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines())
    assert first == {"step": 1, "loss": None, "grad_norm": None}
    assert second["loss"] == 0.5
    assert mean_of_last(tmp_path / "log.jsonl") == {"loss": 0.5, "grad_norm": 2.0}


FULL = "log.jsonl could not be written (No space left on device); make room or choose another folder."


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
def test_a_disk_too_full_for_the_log_is_one_sentence(tmp_path: Path) -> None:
    def write(always_full: TextIOWrapper) -> None:
        with RunLog(tmp_path, 0) as record:
            record.write(1, {"loss": 0.5})
            record._file.close()
            record._file = always_full
            record.write(2, {"loss": 0.5})

    with Path("/dev/full").open("w", buffering=1) as always_full, suppress(OSError):
        with pytest.raises(StorageError) as caught:
            write(always_full)
        assert str(caught.value) == f"{tmp_path}/{FULL}"
    assert [one["loss"] for one in read_log(tmp_path / "log.jsonl")] == [0.5]


def test_a_disk_too_full_for_tensorboard_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its thread finds out first; its traceback is not shown, and the run ends at its next step."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    def write() -> None:
        with RunLog(tmp_path, 0) as record:
            monkeypatch.setattr(LocalFileSystem, "append", full)
            for step in itertools.count(1):
                record.write(step, {"loss": 0.5})
                time.sleep(0.001)

    silence_libraries()
    with pytest.raises(StorageError) as caught:
        write()
    assert str(caught.value) == f"{tmp_path}/{FULL}"
    assert capsys.readouterr().err == ""


def test_a_disk_too_full_to_begin_the_events_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    silence_libraries()
    monkeypatch.setattr(LocalFileSystem, "write", full)
    with pytest.raises(StorageError) as caught:
        RunLog(tmp_path, 0)
    assert str(caught.value) == f"{tmp_path}/{FULL}"


def test_weights_and_biases_is_an_extra(
    run_tiny: RunTiny, tmp_path: Path, recipe_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    config = with_settings(tmp_path, recipe_file, run='wandb_project = "mine"')
    result = run_tiny(tmp_path / "out", "--config", config)
    assert result.code == 2
    assert result.err.splitlines()[-1] == (
        "train: run.wandb_project needs the package wandb; install pairsieve[wandb], or leave the setting out."
    )


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="needs the extra pairsieve[wandb]")
def test_a_resumed_run_goes_on_in_weights_and_biases(
    run_tiny: RunTiny, tmp_path: Path, recipe_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    config, output = with_settings(tmp_path, recipe_file, run='wandb_project = "mine"'), tmp_path / "out"
    for options in (("--steps", 2), ("--resume",)):
        assert run_tiny(output, *LORA, "--config", config, *options).code == 0
    runs = sorted(path.name for path in (output / "wandb").glob("offline-run-*"))
    assert len(runs) == 2
    assert {name.rpartition("-")[2] for name in runs} == {(output / "wandb-id").read_text()}


@pytest.mark.parametrize("objective", ["cdpo", "ipo", "dspo", "linear", "mapo", "sft"])
def test_every_objective_trains_from_the_command_line(run_tiny: RunTiny, tmp_path: Path, objective: str) -> None:
    result = run_tiny(tmp_path / "out", *LORA, "--objective", objective, "--steps", 3, "--beta", 500)
    assert result.code == 0, result.err
    records = log(tmp_path / "out")
    assert all(torch.isfinite(torch.tensor(record["loss"])) and record["grad_norm"] > 0 for record in records)
    known = {name for name, value in records[2].items() if value is not None}
    of_reference = {
        "reference_mse_preferred",
        "reference_mse_rejected",
        "reference_margin",
        "implicit_accuracy",
        "drift",
    }
    if objective in ("mapo", "sft"):
        assert not known & of_reference
        assert ("policy_mse_rejected" in known) == ("policy_margin" in known) == (objective == "mapo")
        return
    assert known >= of_reference
    assert records[2]["policy_mse_preferred"] != records[2]["reference_mse_preferred"]
    assert records[0]["drift"] == pytest.approx(0, abs=1e-9)  # policy = reference before the first step
    assert records[2]["drift"] > 0


@pytest.mark.parametrize("order", ["ranked", "reversed", "weighted"])
def test_an_order_resumes_as_it_went(run_tiny: RunTiny, tmp_path: Path, recipe_file: Path, order: str) -> None:
    config = with_settings(tmp_path, recipe_file, f'order = "{order}"')
    run_tiny(tmp_path / "whole", *LORA, "--config", config)
    run_tiny(tmp_path / "broken", *LORA, "--config", config, "--steps", 2)
    run_tiny(tmp_path / "broken", *LORA, "--config", config, "--resume")
    run_tiny(tmp_path / "shuffled", *LORA)
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "broken"))
    assert not equal(weights(tmp_path / "whole"), weights(tmp_path / "shuffled"))
