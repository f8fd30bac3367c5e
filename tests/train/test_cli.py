import shutil
from pathlib import Path

import pytest
from typer.main import get_command

from tests.train import tiny
from tests.train.conftest import Train
from train.cli import app


@pytest.mark.parametrize("name", ["run", "sample"])
def test_help_is_one_sentence_and_one_example(name: str) -> None:
    command = get_command(app).commands[name]  # type: ignore[attr-defined]
    sentence, example = command.help.split("\n\n")
    assert sentence.endswith(".")
    assert sentence.count(". ") == 0
    assert example.startswith(f"Example: train {name} ")
    parsed = command.make_context(name, example.split()[3:])  # runnable: its options exist
    assert parsed.params["as_json"] is False


@pytest.mark.parametrize("name", ["run", "sample"])
def test_every_option_is_explained(name: str) -> None:
    command = get_command(app).commands[name]  # type: ignore[attr-defined]
    assert len(command.params) <= 19
    assert all(parameter.help for parameter in command.params if parameter.name != "help")


def test_missing_shards_are_one_sentence(train: Train, tmp_path: Path) -> None:
    result = train("run", "--preset", "demo", "--shards", tmp_path)
    assert (result.code, result.out) == (1, "")
    assert result.err == (f"train: {tmp_path} has no shards.json; give the folder that `curate export-shards` wrote.\n")


def test_neither_model_nor_preset_means_the_demo_and_says_so(train: Train, shards: Path) -> None:
    result = train("run", "--shards", shards, "--steps", 1, "--dry-run", "--json")
    assert result.err == "No --model and no --preset: training the bundled demo model by preset demo.\n"
    assert result.json()["recipe"]["model"] == "demo"
    assert result.json()["output"] == str(shards.parent / "trained")


def test_a_model_named_in_a_file_chooses_the_preset_too(train: Train, shards: Path, sdxl: Path, tmp_path: Path) -> None:
    config = tmp_path / "mine.toml"
    config.write_text(f'model = "{sdxl}"\n')
    result = train("run", "--shards", shards, "--config", config, "--dry-run", "--json")
    assert result.err.startswith(f"No --preset: taking sdxl, which fits {sdxl}.\n")
    assert result.json()["recipe"]["optimizer"]["name"] == "adafactor"
    config.write_text("model = 3\n")
    assert train("run", "--shards", shards, "--config", config).err.endswith("`model` is 3; it must be of type str.\n")


def test_a_model_alone_chooses_the_preset_of_its_family(train: Train, shards: Path, sd: Path, sdxl: Path) -> None:
    for model, preset in ((sd, "sd15"), (sdxl, "sdxl")):
        result = train("run", "--shards", shards, "--model", model, "--dry-run", "--json")
        assert result.err.startswith(f"No --preset: taking {preset}, which fits {model}.\nThis machine (")
        assert result.json()["recipe"]["run"]["batch_pairs"] == 2048


def test_accumulation_follows_from_the_number_of_gpus(
    train: Train, shards: Path, sd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch is stated in pairs: 2048 of them, 8 to a forward; nothing else of the recipe changes."""
    plans, config = {}, tmp_path / "eight.toml"
    config.write_text("[run]\nmicro_batch_pairs = 8\ngradient_checkpointing = true\n")
    for processes, micro_steps in ((1, 256), (8, 32), (16, 16), (3, 86)):
        monkeypatch.setenv("WORLD_SIZE", str(processes))
        plan = train(
            *("run", "--shards", shards, "--model", sd, "--preset", "sd15", "--config", config, "--dry-run", "--json")
        ).json()
        assert (plan["processes"], plan["micro_steps_per_step"]) == (processes, micro_steps)
        plans[processes] = plan["recipe"]
    assert all(recipe == plans[1] for recipe in plans.values())


def test_a_dry_run_counts_what_a_run_costs(train: Train, shards: Path, sd: Path) -> None:
    result = train("run", "--shards", shards, "--model", sd, "--preset", "demo", "--dry-run", "--json")
    plan = result.json()
    assert plan["tflop"] == pytest.approx(plan["tflop_per_pair"] * 50 * 32)
    assert plan["device_hours_at_100_tflop_per_sec"] == pytest.approx(plan["tflop"] / 100 / 3600)
    *parts, total = plan["bytes_on_each_device"].values()
    assert sum(parts) == total > 0
    # Nine pictures of 64 px, three prompts and the empty one, 2 bytes a value.
    assert plan["unique_images"] == 9
    assert plan["cache_bytes"] == 2 * (9 * 2 * 4 * 32 * 32 + 4 * 77 * 16)


def test_many_epochs_are_said_and_may_be_bounded(train: Train, shards: Path, tmp_path: Path) -> None:
    """The best 5.33 % of Pick-a-Pic by the published recipe are 90 epochs; six pairs here."""
    options = ("run", "--shards", shards, "--preset", "demo", "--batch-pairs", 2, "--dry-run", "--json")
    assert train(*options, "--steps", 30).err == ""
    many = train(*options, "--steps", 31)
    assert many.err.startswith("Note: 31 steps of 2 pairs go 10 times over the 6 pairs. In our experiments a small sel")
    assert many.json()["epochs"] == 10.33
    config = tmp_path / "mine.toml"
    config.write_text("[run]\nmax_epochs = 2.5\n")
    bounded = train(*options, "--steps", 31, "--config", config)
    assert (bounded.err, bounded.json()["recipe"]["run"]["steps"], bounded.json()["epochs"]) == ("", 7, 2.33)
    assert train(*options, "--steps", 4, "--config", config).json()["recipe"]["run"]["steps"] == 4


def test_a_dry_run_without_the_model_still_prints_the_recipe(train: Train, shards: Path, tmp_path: Path) -> None:
    options = ("--shards", shards, "--preset", "sd15", "--model", tmp_path / "absent", "--dry-run", "--json")
    result = train("run", *options)
    assert result.err.startswith(f"The cost is not counted: {tmp_path / 'absent'} is neither a folder nor a model")
    assert result.json()["recipe"]["run"]["micro_batch_pairs"] == "auto"
    assert result.json()["micro_steps_per_step"] is None


def test_usage_errors_exit_with_two(train: Train, shards: Path, tmp_path: Path) -> None:
    unknown = train("run", "--shards", shards, "--preset", "sd16")
    assert (unknown.code, unknown.out) == (2, "")
    presets = "demo, sd15, sd15-lora, sd15-selection, sd3, sdxl, sdxl-lora, sdxl-selection"
    assert unknown.err == f"train: There is no preset `sd16`; the presets are {presets}.\n"
    config = tmp_path / "mine.toml"
    config.write_text("[run]\nbatch_pair = 3\n")
    key = train("run", "--shards", shards, "--preset", "demo", "--config", config)
    assert key.code == 2
    assert key.err == f"train: {config}: there is no setting `run.batch_pair`; the nearest is `run.batch_pairs`.\n"
    assert train("run", "--no-such-option").code == 2


def test_a_model_of_the_wrong_class(train: Train, shards: Path, sd: Path, tmp_path: Path) -> None:
    result = train("run", "--shards", shards, "--model", sd / "text_encoder", "--output", tmp_path / "out")
    assert (result.code, result.out) == (1, "")
    assert result.err == (
        f"train: {sd / 'text_encoder'} is not a diffusers pipeline folder: it has no model_index.json;"
        " give a folder saved with `save_pretrained`, or a hub id.\n"
    )


def test_fp16_without_a_gpu(train: Train, shards: Path, sd: Path, tmp_path: Path) -> None:
    result = train("run", "--shards", shards, "--model", sd, "--preset", "sd15", "--output", tmp_path / "out")
    assert result.code == 2
    assert (
        result.err.splitlines()[-1]
        == 'train: run.mixed_precision "fp16" needs a GPU; set it to "no" or "bf16" in a file given by --config.'
    )


def test_an_undecodable_image_is_one_sentence_and_nothing_is_left_half(
    train: Train, sd: Path, recipe_file: Path, tmp_path: Path
) -> None:
    shards = tiny.write_shards(tmp_path / "shards", [tiny.sample(1, "red box", b"\x89PNG", tiny.picture("red", 1))])
    options = ("--shards", shards, "--model", sd, "--preset", "demo", "--config", recipe_file)
    result = train("run", *options)
    assert (result.code, result.out) == (1, "")
    assert result.err.splitlines()[-1].startswith(
        f"train: The image 000000001.preferred.png in {shards}/pairs-000000.tar cannot be decoded ("
    )
    assert [path.name for path in (tmp_path / "trained").rglob("*") if path.is_file()] == ["run.json"]


def test_an_unexpected_error_keeps_its_traceback(train: Train, shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("train.data.pairs.read_pairs", broken)
    with pytest.raises(ZeroDivisionError):
        train("run", "--preset", "demo", "--shards", shards)


def test_plain_output_is_a_line_per_value(train: Train, shards: Path) -> None:
    result = train("run", "--shards", shards, "--preset", "demo", "--dry-run")
    lines = dict(line.split(maxsplit=1) for line in result.out.splitlines() if len(line.split()) > 1)
    assert (lines["recipe.run.batch_pairs"], lines["pairs"], lines["recipe.objective.beta"]) == ("32", "6", "2000")


def test_the_run_is_found_from_where_one_stands(
    train: Train, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(shards, tmp_path / "run" / "shards")
    (tmp_path / "run" / "run.toml").touch()
    (tmp_path / "notes").mkdir()
    for place, note in (
        (tmp_path, ""),
        (tmp_path / "notes", f"Taking the run {tmp_path}/run, found from here.\n"),
    ):
        monkeypatch.chdir(place)
        result = train("run", "--preset", "demo", "--steps", 1, "--dry-run", "--json")
        assert result.err == note
        assert Path(result.json()["output"]).resolve() == tmp_path / "run" / "trained"


def test_defaults_lie_in_the_run_directory(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert train("run", "--preset", "demo").err.startswith("train: run/shards has no shards.json;")
    monkeypatch.setenv("PAIRSIEVE_RUN", "runs/a")
    assert train("run", "--preset", "demo").err.startswith("train: runs/a/shards has no shards.json;")
    assert train("sample", "--prompts", "x.txt").err == (
        "train: There is no trained model in runs/a/trained/model; run `train run` first, or give --model.\n"
    )
