import importlib.util
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import Parameter

from tests.train.conftest import Outcome
from tests.train.training.test_run import LORA, equal, weights
from train.config import load_recipe
from train.errors import SettingsError
from train.training.optimizers import MovingAverage, make_optimizer, set_learning_rate

RunTiny = Callable[..., Outcome]
NEEDS_BITSANDBYTES = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="needs the extra pairsieve[bitsandbytes]"
)


def config(tmp_path: Path, recipe_file: Path, optimizer: str = "", lora: str = "") -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(recipe_file.read_text().replace("[run]", f"{optimizer}\n[run]") + lora)
    return path


@pytest.mark.parametrize(
    ("optimizer", "lora"),
    [
        ('name = "adafactor"', ""),
        ("fused = true", ""),
        ("ema_decay = 0.5", ""),
        ("ema_decay = 0.5", "[lora]\nrank = 2\n"),
        ("", "[lora]\nrank = 2\nalpha = 4\ndora = true\n"),
        ("lora_b_ratio = 4", "[lora]\nrank = 2\n"),
        pytest.param('name = "adamw8bit"', "", marks=NEEDS_BITSANDBYTES),
        pytest.param('name = "adamw8bit"', "[lora]\nrank = 2\n", marks=NEEDS_BITSANDBYTES),
    ],
    ids=["adafactor", "fused", "average", "average of a lora", "dora", "lora plus", "8 bits", "8 bits of a lora"],
)
def test_resumed_equals_uninterrupted(
    run_tiny: RunTiny, tmp_path: Path, recipe_file: Path, optimizer: str, lora: str
) -> None:
    options = ("--config", config(tmp_path, recipe_file, optimizer, lora))
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert run_tiny(whole, *options).code == 0
    assert run_tiny(broken, *options, "--steps", 2).code == 0
    assert run_tiny(broken, *options, "--resume").code == 0
    for name in ("weights", "optimizer", *(["average"] if "ema" in optimizer else [])):
        files = [output / "checkpoints" / "step-000004" / f"{name}.safetensors" for output in (whole, broken)]
        assert equal(*(load_file(file) for file in files)), name
    saved = [sorted((output / "model").rglob("*.safetensors")) for output in (whole, broken)]
    assert saved[0]
    for one, other in zip(*saved, strict=True):
        assert equal(load_file(one), load_file(other)), one.name


def moments(output: Path) -> Path:
    return output / "checkpoints" / "step-000002" / "optimizer.safetensors"


def test_adafactor_keeps_rows_and_columns_and_takes_other_steps(
    run_tiny: RunTiny, tmp_path: Path, recipe_file: Path
) -> None:
    run_tiny(tmp_path / "adamw", "--steps", 2)
    run_tiny(tmp_path / "adafactor", "--steps", 2, "--config", config(tmp_path, recipe_file, 'name = "adafactor"'))
    assert not equal(weights(tmp_path / "adamw"), weights(tmp_path / "adafactor"))
    sizes = [
        sum(value.numel() for value in load_file(moments(tmp_path / name)).values()) for name in ("adamw", "adafactor")
    ]
    assert sizes[1] < sizes[0] / 2


def test_the_model_saved_is_the_average_and_the_average_is_right(
    run_tiny: RunTiny, tmp_path: Path, recipe_file: Path
) -> None:
    options = ("--config", config(tmp_path, recipe_file, "ema_decay = 0.75"))
    steps = []
    for count in (1, 2):
        run_tiny(tmp_path / str(count), *options, "--steps", count)
        steps.append(weights(tmp_path / str(count)))
    saved = load_file(tmp_path / "2" / "model" / "unet" / "diffusion_pytorch_model.safetensors")
    run_tiny(tmp_path / "0", "--steps", 1, "--lr", 0)
    start = weights(tmp_path / "0")
    for name, value in saved.items():
        expected = 0.75 * (0.75 * start[name] + 0.25 * steps[0][name]) + 0.25 * steps[1][name]
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-7)
    assert not equal(saved, steps[1])


def test_the_average_is_float32_whatever_the_weights_are() -> None:
    parameters = {"a": Parameter(torch.ones(3, dtype=torch.bfloat16))}
    average = MovingAverage(parameters, 0.999)
    parameters["a"].data.zero_()
    average.update(parameters)
    assert average.averages["a"].dtype == torch.float32
    torch.testing.assert_close(average.averages["a"], torch.full((3,), 0.999))


def test_dora_trains_magnitudes_and_opens_in_a_pipeline(
    run_tiny: RunTiny, tmp_path: Path, recipe_file: Path, sd: Path
) -> None:
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    lora = "[lora]\nrank = 2\ndora = true\ntargets = ['to_q', 'to_v']\n"
    result = run_tiny(tmp_path / "out", "--config", config(tmp_path, recipe_file, lora=lora))
    assert result.code == 0, result.err
    trained = weights(tmp_path / "out")
    magnitudes = [name for name in trained if "magnitude" in name]
    run_tiny(tmp_path / "still", "--config", config(tmp_path, recipe_file, lora=lora), "--steps", 1, "--lr", 0)
    start = weights(tmp_path / "still")
    assert magnitudes
    assert all(not torch.equal(trained[name], start[name]) for name in magnitudes)
    assert all(".to_q." in name or ".to_v." in name for name in trained)
    pipeline = DiffusionPipeline.from_pretrained(sd)
    pipeline.load_lora_weights(result.json()["model"])
    (adapter,) = pipeline.unet.peft_config.values()
    assert adapter.use_dora
    held = pipeline.unet.state_dict()
    (loaded,) = pipeline.unet.peft_config
    for name, value in trained.items():
        assert torch.equal(held[name.replace(".default.", f".{loaded}.")], value)


@NEEDS_BITSANDBYTES
def test_eight_bits_hold_large_moments_in_bytes_and_train_much_as_adamw_does(
    run_tiny: RunTiny, tmp_path: Path, recipe_file: Path
) -> None:
    run_tiny(tmp_path / "plain", "--steps", 2)
    run_tiny(tmp_path / "eight", "--steps", 2, "--config", config(tmp_path, recipe_file, 'name = "adamw8bit"'))
    held, trained = load_file(moments(tmp_path / "eight")), weights(tmp_path / "eight")
    large = [name for name, value in trained.items() if value.numel() >= 4096]  # bitsandbytes leaves small ones alone
    assert large
    assert all(held[f"{name}/{state}"].dtype == torch.uint8 for name in large for state in ("state1", "state2"))
    run_tiny(tmp_path / "still", "--steps", 1, "--lr", 0)
    start, plain = weights(tmp_path / "still"), weights(tmp_path / "plain")
    moved, other = (torch.cat([(one[name] - start[name]).flatten() for name in start]) for one in (trained, plain))
    assert not torch.equal(moved, other)
    assert torch.cosine_similarity(moved, other, dim=0) > 0.9


def test_eight_bits_need_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    settings: Any = load_recipe("demo", None, {"optimizer": {"name": "adamw8bit"}}).optimizer
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(SettingsError) as caught:
        make_optimizer(settings, {"a": Parameter(torch.ones(3))}, torch.device("cpu"))
    assert str(caught.value) == (
        'optimizer.name "adamw8bit" needs the package bitsandbytes; install pairsieve[bitsandbytes],'
        ' or take "adafactor".'
    )


def test_only_the_lora_is_trained_and_kept(run_tiny: RunTiny, tmp_path: Path) -> None:
    run_tiny(tmp_path / "out", *LORA, "--steps", 1)
    moments = load_file(tmp_path / "out" / "checkpoints" / "step-000001" / "optimizer.safetensors")
    assert all("lora" in name for name in moments)


def test_the_schedule_falls_from_the_full_rate_towards_zero_and_lora_s_second_matrix_learns_faster() -> None:
    plain = replace(load_recipe("demo").optimizer, learning_rate=1.0, warmup_steps=2, lora_b_ratio=4.0)
    parameters = {f"to_q.lora_{one}.default.weight": Parameter(torch.zeros(1)) for one in "AB"}
    found = {}
    for schedule in ("constant", "linear", "cosine"):
        optimizer = replace(plain, schedule=schedule)
        made = make_optimizer(optimizer, parameters, torch.device("cpu"))
        found[schedule] = [set_learning_rate(made, optimizer, step, 6) for step in range(6)]
        assert [group["lr"] for group in made.param_groups] == pytest.approx(
            [found[schedule][5], 4 * found[schedule][5]]
        )
        assert [len(group["params"]) for group in made.param_groups] == [1, 1]
    assert found["constant"] == [0.5, 1, 1, 1, 1, 1]
    assert found["linear"] == [0.5, 1, 1, 0.75, 0.5, 0.25]
    # (1 + cos(pi k / 4)) / 2
    assert found["cosine"] == pytest.approx([0.5, 1, 1, 0.853553, 0.5, 0.146447], abs=1e-6)
