"""`train run` from the command line to the saved model, on tiny models."""

import itertools
import json
import math
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.demo import ROOT
from tests.train import tiny
from tests.train.conftest import Outcome
from train.training.output import checkpoint

RunTiny = Callable[..., Outcome]
LORA = ("--lora-rank", 2)


def weights(output: Path) -> dict[str, torch.Tensor]:
    """What the newest checkpoint trained."""
    newest = max((output / "checkpoints").iterdir())
    return load_file(newest / "weights.safetensors")


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def assert_close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-3, atol=1e-4)


def log(output: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]


def picture(pipeline: Any) -> torch.Tensor:
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    return torch.from_numpy(pipeline("red box", num_inference_steps=2, generator=generator, output_type="np").images)


@pytest.mark.parametrize("kind", [(), LORA], ids=["full", "lora"])
def test_interrupted_and_resumed_equals_uninterrupted(run_tiny: RunTiny, tmp_path: Path, kind: tuple[Any, ...]) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert run_tiny(whole, *kind).code == 0
    assert run_tiny(broken, *kind, "--steps", 2).code == 0
    resumed = run_tiny(broken, *kind, "--resume")
    assert resumed.code == 0
    assert "Resuming after step 2." in resumed.err
    assert equal(weights(whole), weights(broken))
    assert [line["loss"] for line in log(whole)] == [line["loss"] for line in log(broken)]


def test_a_killed_run_resumes_from_its_newest_sound_checkpoint(run_tiny: RunTiny, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run_tiny(whole, "--steps", 5)
    shutil.copytree(whole, killed)
    # As a kill -9 in step 6 leaves it: no summary, half a log line, and a checkpoint that the disk harmed.
    (killed / "summary.json").unlink()
    with (killed / "log.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')
    harmed = killed / "checkpoints" / "step-000005" / "weights.safetensors"
    harmed.write_bytes(harmed.read_bytes()[:-100])
    resumed = run_tiny(killed, "--steps", 5, "--resume")
    assert resumed.code == 0
    assert f"{harmed.parent} is not a sound checkpoint (weights.safetensors has" in resumed.err
    assert "Resuming after step 4." in resumed.err
    assert equal(weights(whole), weights(killed))
    assert [line["step"] for line in log(killed)] == [1, 2, 3, 4, 5]


def test_micro_batches_and_seeds(run_tiny: RunTiny, tmp_path: Path, recipe_file: Path) -> None:
    """One seed: the same weights however the batch is cut, up to rounding. Two seeds: others."""
    for name, options in {"narrow": (), "again": (), "other": ("--seed", 1)}.items():
        assert run_tiny(tmp_path / name, *LORA, *options).code == 0
    assert equal(weights(tmp_path / "narrow"), weights(tmp_path / "again"))
    assert not equal(weights(tmp_path / "narrow"), weights(tmp_path / "other"))
    wide = tmp_path / "wide.toml"
    wide.write_text(recipe_file.read_text().replace("micro_batch_pairs = 2", "micro_batch_pairs = 3"))
    assert run_tiny(tmp_path / "wide", *LORA, "--config", wide).code == 0
    losses = [[line["loss"] for line in log(tmp_path / name)] for name in ("narrow", "wide")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_auto_trains_the_same_and_a_resumed_run_may_take_another_micro_batch(
    run_tiny: RunTiny, tmp_path: Path, recipe_file: Path
) -> None:
    """Up to rounding; the numbers that were chosen are said, and stand in run.json."""
    auto, single = tmp_path / "auto.toml", tmp_path / "single.toml"
    text = recipe_file.read_text().replace("micro_batch_pairs = 2", "micro_batch_pairs = {}")
    auto.write_text(text.format('"auto"') + 'gradient_checkpointing = "auto"\n')
    single.write_text(text.format(1) + "gradient_checkpointing = true\n")
    given, open_, broken = tmp_path / "given", tmp_path / "open", tmp_path / "broken"
    assert run_tiny(given, *LORA).code == 0
    result = run_tiny(open_, *LORA, "--config", auto)
    assert "MiB of memory are free: 3 pairs in a forward, without gradient checkpointing." in result.err
    run = json.loads((open_ / "run.json").read_text())["recipe"]["run"]
    assert (run["micro_batch_pairs"], run["gradient_checkpointing"]) == (3, False)
    assert run_tiny(broken, *LORA, "--steps", 2).code == 0
    resumed = run_tiny(broken, *LORA, "--config", single, "--resume")
    assert "Resuming after step 2." in resumed.err
    for output in (open_, broken):
        assert_close(weights(given), weights(output))


def test_the_log_holds_every_metric_of_every_step(run_tiny: RunTiny, tmp_path: Path) -> None:
    result = run_tiny(tmp_path / "out", "--steps", 3)
    records, names = (
        log(tmp_path / "out"),
        [
            "step",
            "loss",
            "policy_mse_preferred",
            "policy_mse_rejected",
            "reference_mse_preferred",
            "reference_mse_rejected",
            "policy_margin",
            "reference_margin",
            "implicit_accuracy",
            "gradient_factor",
            "both_errors_rise",
            "margin_size",
            "drift",
            "winner_error_ratio",
            "prediction_norm_ratio",
            *(f"margin_by_noise_{band}" for band in (1, 2, 3, 4)),
            "beta",
            "learning_rate",
            "grad_norm",
            "pairs_per_sec",
            "data_wait_share",
            "peak_memory_bytes",
            "skipped_steps",
        ],
    )
    assert [list(record) for record in records] == [names] * 3
    first = records[0]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6)  # policy = reference before the first step
    assert first["policy_mse_preferred"] == first["reference_mse_preferred"] > 0
    assert (first["implicit_accuracy"], first["gradient_factor"], first["both_errors_rise"]) == (0.5, 0.5, 0)
    assert (first["winner_error_ratio"], first["prediction_norm_ratio"]) == (1, 1)
    last, bands = records[2], [records[2][f"margin_by_noise_{band}"] for band in (1, 2, 3, 4)]
    assert last["winner_error_ratio"] == pytest.approx(last["policy_mse_preferred"] / last["reference_mse_preferred"])
    assert any(band for band in bands)
    assert first["policy_margin"] == pytest.approx(
        first["policy_mse_rejected"] - first["policy_mse_preferred"], abs=1e-6
    )
    assert [record["learning_rate"] for record in records] == pytest.approx([5e-4, 1e-3, 1e-3])
    assert all(record["grad_norm"] > 0 and record["pairs_per_sec"] > 0 for record in records)
    assert records[2]["policy_mse_preferred"] != records[2]["reference_mse_preferred"]

    events = EventAccumulator(str(tmp_path / "out" / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("objective/loss")] == [1, 2, 3]
    assert {name.partition("/")[0] for name in events.Tags()["scalars"]} == {
        "objective", "errors", "margin by noise", "optimizer", "machine"
    }  # fmt: skip
    (recipe,) = events.Tensors("recipe/text_summary")
    assert b"steps = 3" in recipe.tensor_proto.string_val[0]
    assert [event.value for event in events.Scalars("objective/loss")] == pytest.approx(
        [one["loss"] for one in records]
    )

    summary = result.json()
    assert summary["loss"] == pytest.approx(sum(record["loss"] for record in records) / 3)
    assert (summary["steps"], summary["pairs"], summary["pairs_drawn"]) == (3, 6, 9)
    assert "train 3/3  loss " in result.err


def test_a_full_fine_tune_opens_as_a_pipeline_and_draws_otherwise(run_tiny: RunTiny, tmp_path: Path, sd: Path) -> None:
    model = Path(run_tiny(tmp_path / "out").json()["model"])
    trained = DiffusionPipeline.from_pretrained(model)
    assert equal(trained.unet.state_dict(), weights(tmp_path / "out"))
    assert not torch.equal(picture(trained), picture(DiffusionPipeline.from_pretrained(sd)))
    assert json.loads((model / "training.json").read_text())["base"] == str(sd)


def test_a_lora_loads_in_a_fresh_pipeline_and_draws_otherwise(run_tiny: RunTiny, tmp_path: Path, sd: Path) -> None:
    config = tmp_path / "lora.toml"
    config.write_text("[data]\nresolution_px = 32\n[lora]\nrank = 2\nalpha = 6\n[optimizer]\nlearning_rate = 1e-2\n")
    result = run_tiny(tmp_path / "out", "--config", config, "--steps", 5, "--batch-pairs", 2)
    model = Path(result.json()["model"])
    pipeline = DiffusionPipeline.from_pretrained(sd)
    before = picture(pipeline)
    pipeline.load_lora_weights(model)
    (adapter,) = pipeline.unet.peft_config.values()
    assert (adapter.r, adapter.lora_alpha) == (2, 6)
    assert not torch.equal(picture(pipeline), before)
    held = pipeline.unet.state_dict()
    trained = weights(tmp_path / "out")
    assert trained
    adapter_name = next(iter(pipeline.unet.peft_config))
    for name, value in trained.items():
        assert torch.equal(held[name.replace(".default.", f".{adapter_name}.")], value)
    document = json.loads((model / "training.json").read_text())
    assert (document["base"], document["kind"]) == (str(sd), "lora")


@pytest.mark.parametrize("kind", [(), LORA], ids=["full", "lora"])
def test_sdxl_trains_two_steps(run_tiny: RunTiny, tmp_path: Path, sdxl: Path, kind: tuple[Any, ...]) -> None:
    result = run_tiny(tmp_path / "out", *kind, "--steps", 2, model=sdxl)
    assert result.code == 0, result.err
    first, second = log(tmp_path / "out")
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert second["policy_margin"] != second["reference_margin"]
    model = result.json()["model"]
    pipeline = DiffusionPipeline.from_pretrained(sdxl if kind else model)
    if kind:
        pipeline.load_lora_weights(model)
    assert picture(pipeline).shape == (1, 32, 32, 3)


def test_an_emptied_prompt_of_sdxl_is_what_the_recipe_says(
    run_tiny: RunTiny, tmp_path: Path, sdxl: Path, recipe_file: Path
) -> None:
    """The first step's errors, with every prompt emptied and with none."""
    first: dict[tuple[str, str], float] = {}
    for said in ("pipeline", "encoded"):
        for share in ("0.0", "1.0"):
            config, output = tmp_path / "recipe.toml", tmp_path / f"{said}-{share}"
            keys = f'flips = true\nempty_prompts = "{said}"\nempty_prompt_probability = {share}\n'
            config.write_text(recipe_file.read_text().replace("flips = true\n", keys))
            result = run_tiny(output, "--config", config, "--steps", 1, model=sdxl)
            assert result.code == 0, result.err
            first[said, share] = log(output)[0]["policy_mse_preferred"]
    assert first["pipeline", "0.0"] == first["encoded", "0.0"]
    assert first["pipeline", "1.0"] != first["encoded", "1.0"]


@pytest.mark.parametrize(
    "settings",
    ['mixed_precision = "bf16"', "gradient_checkpointing = true"],
    ids=["bf16", "checkpointing"],
)
@pytest.mark.parametrize("kind", [(), LORA], ids=["full", "lora"])
def test_bf16_and_checkpointing_train(
    run_tiny: RunTiny, tmp_path: Path, recipe_file: Path, settings: str, kind: tuple[Any, ...]
) -> None:
    config = tmp_path / "recipe.toml"
    config.write_text(f"{recipe_file.read_text()}{settings}\n")
    result = run_tiny(tmp_path / "out", *kind, "--config", config, "--steps", 2)
    assert result.code == 0, result.err
    assert {value.dtype for value in weights(tmp_path / "out").values()} == {torch.float32}
    if "checkpointing" in settings:
        run_tiny(tmp_path / "plain", *kind, "--steps", 2)
        losses = [[line["loss"] for line in log(tmp_path / name)] for name in ("out", "plain")]
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_accumulation_set_for_the_launcher_divides_no_loss(
    run_tiny: RunTiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_tiny(tmp_path / "plain", *LORA, "--steps", 2)
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    run_tiny(tmp_path / "set", *LORA, "--steps", 2)
    norms = [[line["grad_norm"] for line in log(tmp_path / name)] for name in ("plain", "set")]
    assert norms[0] == norms[1]
    assert equal(weights(tmp_path / "plain"), weights(tmp_path / "set"))


def test_the_newest_checkpoint_goes_by_number(tmp_path: Path) -> None:
    for name in ("step-999999", "step-1000000", "step-000002", "step-none"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    newest_first = [folder.name for folder in checkpoint._newest_first(tmp_path)]
    assert newest_first == ["step-1000000", "step-999999", "step-000002"]


@pytest.mark.parametrize("document", ["", "{}", "[]", "null", '{"step": 4, "sizes_bytes": []}'])
def test_a_checkpoint_whose_state_says_nothing_is_passed_over(tmp_path: Path, document: str) -> None:
    for step, text in {2: '{"step": 2, "sizes_bytes": {}}', 4: document}.items():
        folder = tmp_path / "checkpoints" / f"step-{step:06d}"
        folder.mkdir(parents=True)
        (folder / "state.json").write_text(text)
    told: list[str] = []
    found = checkpoint.newest(tmp_path, told.append)
    assert found is not None
    assert found.step == 2
    (passed,) = told
    assert passed.startswith(f"{tmp_path}/checkpoints/step-000004 is not a sound checkpoint (")


def test_v_prediction_trains(run_tiny: RunTiny, tmp_path: Path) -> None:
    model = tiny.save_sd(tmp_path / "v", prediction_type="v_prediction")
    assert run_tiny(tmp_path / "out", *LORA, "--steps", 2, model=model).code == 0


def test_a_dry_run_prints_the_plan_and_starts_nothing(run_tiny: RunTiny, tmp_path: Path) -> None:
    result = run_tiny(tmp_path / "out", "--dry-run", "--lr", 0.5)
    plan = result.json()
    assert (plan["pairs"], plan["unique_images"], plan["unique_prompts"]) == (6, 9, 3)
    assert (plan["micro_steps_per_step"], plan["epochs"], plan["output"]) == (2, 2.0, str(tmp_path / "out"))
    assert plan["recipe"]["optimizer"]["learning_rate"] == 0.5
    assert not (tmp_path / "out").exists()


def test_a_finished_run_is_not_done_again(run_tiny: RunTiny, tmp_path: Path) -> None:
    output = tmp_path / "out"
    first = run_tiny(output, *LORA, "--steps", 2)
    again = run_tiny(output, *LORA, "--steps", 2)
    assert (again.code, again.json()) == (0, first.json())
    assert again.err == f"{output} holds this run, finished: nothing to do.\n"


def test_a_directory_with_another_run_is_left_alone(run_tiny: RunTiny, tmp_path: Path) -> None:
    output = tmp_path / "out"
    run_tiny(output, *LORA, "--steps", 2)
    before = weights(output)
    other = run_tiny(output, *LORA, "--steps", 2, "--beta", 7)
    assert (other.code, other.out) == (1, "")
    assert other.err == (
        f"train: {output} holds a run under other settings (recipe.objective.beta: was 2000.0, now 7.0);"
        " name another --output, or remove it.\n"
    )
    longer = run_tiny(output, *LORA, "--steps", 3)
    assert longer.code == 1
    assert longer.err == (
        f"train: {output} holds an unfinished run under these settings; add --resume to continue it,"
        " or name another --output.\n"
    )
    shorter = run_tiny(output, *LORA, "--steps", 1, "--resume")
    assert shorter.code == 1
    assert shorter.err == (
        f"train: {output} holds a run of 2 steps, more than the 1 asked for; name another --output, or remove it.\n"
    )
    assert equal(before, weights(output))


@pytest.mark.parametrize(
    ("first", "then", "change"),
    [((), ("--no-cache",), "was true, now false"), (("--no-cache",), (), "was false, now true")],
)
def test_a_run_goes_on_with_or_without_a_cache_as_it_began(
    run_tiny: RunTiny, tmp_path: Path, first: tuple[str, ...], then: tuple[str, ...], change: str
) -> None:
    assert run_tiny(tmp_path, *LORA, "--steps", 2, *first).code == 0
    other = run_tiny(tmp_path, *LORA, "--resume", *then)
    assert (other.code, other.out) == (1, "")
    assert other.err == (
        f"train: {tmp_path} holds a run under other settings (latent_cache: {change});"
        " name another --output, or remove it.\n"
    )


def test_a_full_disk_leaves_the_last_checkpoint(
    run_tiny: RunTiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fills while the checkpoint of step 4 is synced; step 2's stays, and no half is in place."""
    output, sync = tmp_path / "out", os.fsync

    def full(descriptor: int) -> None:
        if "step-000004" in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            raise OSError(28, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    result = run_tiny(output, *LORA)
    assert (result.code, result.out) == (1, "")
    assert result.err.splitlines()[-1] == (
        f"train: {output}/checkpoints/step-000004 could not be written (No space left on device);"
        " make room or choose another folder."
    )
    assert [entry.name for entry in (output / "checkpoints").iterdir()] == ["step-000002"]
    assert not (output / "model").exists()
    monkeypatch.undo()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [(), LORA], ids=["full", "lora"])
def test_two_processes_train_as_one(
    run_tiny: RunTiny, tmp_path: Path, sd: Path, shards: Path, recipe_file: Path, kind: tuple[Any, ...]
) -> None:
    """As README has them launched, in the folder of a user whose own files have the names of our packages."""
    run_tiny(tmp_path / "one", "--steps", 3, *kind)
    for name in ("train.py", "curate.py", "schemas/__init__.py"):
        mine = tmp_path / "mine" / name
        mine.parent.mkdir(parents=True, exist_ok=True)
        mine.write_text("raise SystemExit('the wrong one')")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    launch += [str(Path(sys.executable).with_name("train")), "run", "--json"]
    options = {"--shards": shards, "--model": sd, "--preset": "demo", "--config": recipe_file}
    options |= {"--output": tmp_path / "two", "--steps": 3}
    done = subprocess.run(
        [*launch, *(str(part) for option in options.items() for part in option), *map(str, kind)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT)},
        cwd=tmp_path / "mine",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Training on cpu:0, 2 process(es)" in done.stderr
    assert json.loads(done.stdout)["steps"] == 3
    losses = [[line["loss"] for line in log(tmp_path / name)] for name in ("one", "two")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert_close(weights(tmp_path / "two"), weights(tmp_path / "one"))


@pytest.mark.slow
def test_processes_that_do_not_share_an_output_do_not_resume(
    run_tiny: RunTiny, tmp_path: Path, sd: Path, shards: Path, recipe_file: Path
) -> None:
    assert run_tiny(tmp_path / "out-0", "--steps", 2).code == 0
    options = {"--shards": shards, "--model": sd, "--preset": "demo", "--config": recipe_file, "--steps": 4}
    train = shlex.join([sys.executable, "-m", "train.cli", "run", *map(str, itertools.chain(*options.items()))])
    resume = f"{train} --resume --output {shlex.quote(str(tmp_path))}/out-$RANK"  # as on two machines' own disks
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "--no_python"]
    done = subprocess.run(
        [*launch, "sh", "-c", resume],
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert (
        f"train: The processes would go on from different steps in {tmp_path}/out-0: process 0 after step 2,"
        " process 1 after step 0; to resume, give all machines one --output that they share.\n"
    ) in done.stderr
    assert not (tmp_path / "out-1" / "checkpoints").exists()


@pytest.mark.slow
def test_kill_9_and_resume_equals_uninterrupted(
    run_tiny: RunTiny, tmp_path: Path, sd: Path, shards: Path, recipe_file: Path
) -> None:
    """A process killed after the checkpoint of step 2, somewhere in a later step."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run_tiny(whole, "--steps", 40)
    options = {"--shards": shards, "--model": sd, "--preset": "demo", "--config": recipe_file, "--output": killed}
    command = [sys.executable, "-m", "train.cli", "run", "--steps", "40", *map(str, itertools.chain(*options.items()))]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    try:
        while not (killed / "checkpoints" / "step-000002").exists() and process.poll() is None:
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    assert not (killed / "summary.json").exists()
    assert run_tiny(killed, "--steps", 40, "--resume").code == 0
    assert equal(weights(whole), weights(killed))
    assert [line["loss"] for line in log(whole)] == [line["loss"] for line in log(killed)]


@pytest.mark.parametrize("setting", ["channels_last = true", "compile = true"])
def test_faster_layouts_change_no_result_beyond_rounding(
    run_tiny: RunTiny, tmp_path: Path, recipe_file: Path, setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compiled by Dynamo alone: the graphs are captured, without the C++ compiler that a machine may lack."""
    compile_module = torch.nn.Module.compile
    eager = lambda module, **options: compile_module(module, backend="eager", **options)  # noqa: E731
    monkeypatch.setattr(torch.nn.Module, "compile", eager)
    config = tmp_path / "recipe.toml"
    config.write_text(f"{recipe_file.read_text()}{setting}\n")
    for kind in ((), LORA):
        plain, fast = tmp_path / f"plain{len(kind)}", tmp_path / f"fast{len(kind)}"
        run_tiny(plain, *kind, "--steps", 2)
        result = run_tiny(fast, *kind, "--steps", 2, "--config", config)
        assert result.code == 0, result.err
        losses = [[line["loss"] for line in log(output)] for output in (plain, fast)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-3)
        assert weights(plain).keys() == weights(fast).keys()
