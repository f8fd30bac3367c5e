import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from PIL import Image

from schemas.manifests import COLUMN_KEYS, MANIFEST_KEYS, SAMPLED_KEYS, SAMPLED_MODEL_KEYS, SPLIT_KEYS
from schemas.tables import SAMPLED_PAIRS
from tests.demo import ROOT
from tests.train.conftest import Outcome, Train
from train.model.saving import read_trained
from train.sample.generate import GenerationSettings
from train.sample.picture_files import Model
from train.sample.prompts import Prompt
from train.sample.sampling import Sampling, manifest, parse_model

PROMPTS = ["red box", "green box", "blue sky"]
FEW = ("--steps", 2, "--guidance", 3)


@pytest.fixture
def prompt_file(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(PROMPTS))
    return path


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    from tests.train import tiny

    folder = tmp_path_factory.mktemp("models")
    return [tiny.save_sd(folder / f"other-{seed}", seed=seed) for seed in (1, 2)]


@pytest.fixture(scope="module")
def brittle(sd: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose numbers are lost on one of the prompts: the one that ends in `y`."""
    folder = tmp_path_factory.mktemp("models") / "brittle"
    pipeline = StableDiffusionPipeline.from_pretrained(sd)
    with torch.no_grad():
        token = pipeline.tokenizer("sky", add_special_tokens=False).input_ids[-1]
        pipeline.text_encoder.get_input_embeddings().weight[token] = torch.nan
    pipeline.save_pretrained(folder)
    return folder


def pixels(data: bytes) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(io.BytesIO(data))).astype(int)


def rows(output: Path) -> list[dict[str, Any]]:
    """The pairs, each side's picture beside its path."""
    table = pq.read_table(output / "pairs.parquet")
    assert table.schema.equals(SAMPLED_PAIRS)
    found = table.to_pylist()
    for row in found:
        for side in (0, 1):
            path = row[f"image_{side}_path"]
            row[f"image_{side}_bytes"] = None if path is None else (output / path).read_bytes()
    return found


def test_pairs_follow_the_schema_and_the_manifest_names_them(
    train: Train, sd: Path, others: list[Path], prompt_file: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    options = ("--prompts", prompt_file, "--output", output, "--images-per-prompt", 2, "--batch", 4)
    result = train("sample", "--model", others[0], "--against", sd, *options, *FEW, "--json")
    assert result.code == 0, result.err
    assert result.json() == {
        "manifest": str(output / "manifest.toml"),
        "models": [str(others[0]), str(sd)],
        "prompts": 3,
        "pictures": 12,
        "pairs": 6,
        "faults": {},
    }
    assert result.err.splitlines()[-1] == "sample 12/12"
    found = rows(output)
    assert [row["prompt"] for row in found] == [prompt for prompt in PROMPTS for _ in range(2)]
    assert {(row["image_0_model"], row["image_1_model"]) for row in found} == {(str(others[0]), str(sd))}
    assert len({row["image_0_uid"] for row in found} | {row["image_1_uid"] for row in found}) == 12
    assert all(Image.open(io.BytesIO(row["image_0_bytes"])).format == "PNG" for row in found)
    assert len({row["seed"] for row in found}) == 6

    document = tomllib.loads((output / "manifest.toml").read_text())
    assert set(document) <= set(MANIFEST_KEYS)
    assert document["name"] == "sampled"
    assert "models" not in document
    split = document["splits"][document["default_split"]]
    assert set(split) == set(SPLIT_KEYS)
    assert (split["files"], split["rows"]) == (["pairs.parquet"], 6)
    assert set(document["columns"]) <= set(COLUMN_KEYS)
    assert set(document["columns"].values()) <= set(SAMPLED_PAIRS.names)
    assert not {"label_0", "label_1"} & set(document["columns"])
    sampled = document["sampled"]
    assert set(sampled) <= set(SAMPLED_KEYS)
    assert (sampled["seed"], sampled["steps"], sampled["guidance"], sampled["images_per_prompt"]) == (0, 2, 3.0, 2)
    assert all(set(model) <= set(SAMPLED_MODEL_KEYS) for model in sampled["models"])


def test_many_models_make_every_pair_and_each_picture_is_there_once(
    train: Train, sd: Path, others: list[Path], tmp_path: Path
) -> None:
    output, table = tmp_path / "out", tmp_path / "prompts.tsv"
    table.write_text("Prompt\tCategory\nred box\tthings\nblue sky\t\n")
    models = [f"one={others[0]}", f"two={others[1]}", f"base={sd}"]
    named = [word for model in models for word in ("--model", model)]
    result = train("sample", *named, "--prompts", table, "--output", output, "--images-per-prompt", 2, *FEW, "--json")
    assert result.code == 0, result.err
    assert (result.json()["pictures"], result.json()["pairs"]) == (12, 12)
    found = rows(output)
    assert [row["category"] for row in found] == ["things"] * 6 + [None] * 6
    assert [(row["image_0_model"], row["image_1_model"]) for row in found[:3]] == [
        ("one", "two"), ("one", "base"), ("two", "base"),
    ]  # fmt: skip
    for start in range(0, 12, 3):  # one drawing: three pairs of three pictures from one seed
        drawing = found[start : start + 3]
        assert len({row["seed"] for row in drawing}) == 1
        assert len({row[f"image_{side}_path"] for row in drawing for side in (0, 1)}) == 3
    assert len(list(output.rglob("*.png"))) == 12
    uids = {row[f"image_{side}_uid"]: row[f"image_{side}_bytes"] for row in found for side in (0, 1)}
    assert len(uids) == 12


def test_a_picture_does_not_depend_on_the_batch_nor_on_its_neighbours(
    train: Train, sd: Path, others: list[Path], prompt_file: Path, tmp_path: Path
) -> None:
    alone = tmp_path / "alone.txt"
    alone.write_text(PROMPTS[2])
    for name, prompts, batch in (("one", prompt_file, 1), ("three", prompt_file, 3), ("alone", alone, 2)):
        options = ("--prompts", prompts, "--output", tmp_path / name, "--batch", batch)
        assert train("sample", "--model", sd, "--against", others[0], *options, *FEW).code == 0
    one, three, single = (rows(tmp_path / name) for name in ("one", "three", "alone"))
    for left, right in [*zip(one, three, strict=True), (one[2], single[0])]:
        assert left["seed"] == right["seed"]
        assert np.abs(pixels(left["image_0_bytes"]) - pixels(right["image_0_bytes"])).max() <= 1


def test_equal_models_draw_the_same_under_two_uids(train: Train, sd: Path, prompt_file: Path, tmp_path: Path) -> None:
    twice = ("--model", f"a={sd}", "--model", f"b={sd}", "--prompts", prompt_file)
    train("sample", *twice, "--output", tmp_path / "out", *FEW)
    for row in rows(tmp_path / "out"):
        assert row["image_0_bytes"] == row["image_1_bytes"]
        assert row["image_0_uid"] != row["image_1_uid"]
    train("sample", *twice, "--output", tmp_path / "again", *FEW)
    plain = pq.read_table(tmp_path / "out" / "pairs.parquet")
    assert plain.equals(pq.read_table(tmp_path / "again" / "pairs.parquet"))
    train("sample", *twice, "--output", tmp_path / "other", *FEW, "--seed", 1)
    assert not {row["seed"] for row in rows(tmp_path / "out")} & {row["seed"] for row in rows(tmp_path / "other")}


@pytest.mark.parametrize("kind", [(), ("--lora-rank", 2)], ids=["full", "lora"])
def test_what_was_trained_is_drawn_against_its_base(
    train: Train, run_tiny: Callable[..., Outcome], sd: Path, prompt_file: Path, tmp_path: Path, kind: tuple[Any, ...]
) -> None:
    model = run_tiny(tmp_path / "trained", *kind).json()["model"]
    grid = tmp_path / "grid.png"
    options = ("--prompts", prompt_file, "--output", tmp_path / "out", "--grid", grid)
    result = train("sample", "--model", model, *options, *FEW)
    assert result.code == 0, result.err
    assert result.err.startswith(f"No --against: drawing against {sd}, which {model} was trained from.\n")
    for row in rows(tmp_path / "out"):
        assert row["image_0_bytes"] != row["image_1_bytes"]
        assert (row["image_0_model"], row["image_1_model"]) == (model, str(sd))
    assert grid.read_bytes().startswith(b"\x89PNG")


def test_the_manifest_says_which_scorers_chose_the_training_pairs(
    train: Train, run_tiny: Callable[..., Outcome], own_shards: Path, sd: Path, prompt_file: Path, tmp_path: Path
) -> None:
    """From shards.json by way of the model's training.json; what was trained again keeps what was before."""
    index = json.loads((own_shards / "shards.json").read_text())
    index["ranking"] = {"name": "x", "metric": "qsd", "psi": {"clip": 1.0}, "chosen_by": ["clip", "pickscore"]}
    (own_shards / "shards.json").write_text(json.dumps(index))
    model = run_tiny(tmp_path / "one" / "trained", shards=own_shards).json()["model"]
    train("sample", "--model", model, "--prompts", prompt_file, "--output", tmp_path / "out", *FEW)
    sampled = tomllib.loads((tmp_path / "out" / "manifest.toml").read_text())["sampled"]["models"]
    assert [one["chosen_by"] for one in sampled] == [["clip", "pickscore"], []]
    assert sampled[0]["base"] == str(sd)
    index["ranking"] = {"name": "x", "metric": "qsd", "psi": {"hpsv2": 1.0}}  # as shards of before said it
    (own_shards / "shards.json").write_text(json.dumps(index))
    again = run_tiny(tmp_path / "two" / "trained", model=Path(model), shards=own_shards).json()["model"]
    trained = read_trained(Path(again))
    assert trained is not None
    assert trained.chosen_by == ("clip", "hpsv2", "pickscore")


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers' own
def test_sdxl_is_drawn_too(train: Train, sdxl: Path, prompt_file: Path, tmp_path: Path) -> None:
    options = ("--prompts", prompt_file, "--output", tmp_path / "out", "--scheduler", "euler")
    result = train("sample", "--model", f"a={sdxl}", "--against", sdxl, *options, *FEW)
    assert result.code == 0, result.err
    assert len(rows(tmp_path / "out")) == 3
    assert tomllib.loads((tmp_path / "out" / "manifest.toml").read_text())["sampled"]["scheduler"] == "euler"


def test_pictures_that_are_none_are_counted_named_and_left_out(
    train: Train, sd: Path, brittle: Path, prompt_file: Path, tmp_path: Path
) -> None:
    options = ("--prompts", prompt_file, "--output", tmp_path / "out")
    result = train("sample", "--model", f"brittle={brittle}", "--against", sd, *options, *FEW, "--json")
    assert result.code == 0
    assert result.json()["faults"] == {"brittle": {"not_finite": 1}}
    assert result.err.splitlines()[-1] == (
        "brittle: 1 not finite of 3 pictures; they are left out of every comparison, and counted there."
    )
    assert [row["image_0_path"] is None for row in rows(tmp_path / "out")] == [False, False, True]
    models = tomllib.loads((tmp_path / "out" / "manifest.toml").read_text())["sampled"]["models"]
    assert [one.get("not_finite") for one in models] == [1, None]
    lost = tmp_path / "lost.txt"
    lost.write_text(PROMPTS[2])
    options = ("--prompts", lost, "--output", tmp_path / "lost")
    stopped = train("sample", "--model", f"brittle={brittle}", "--against", sd, *options, *FEW)
    assert stopped.code == 1
    assert stopped.err.splitlines()[-1] == (
        "train: brittle drew nothing that could be compared: 1 not finite of 1 pictures."
    )


def test_one_model_or_one_name_twice_is_one_sentence(train: Train, sd: Path, prompt_file: Path) -> None:
    result = train("sample", "--model", sd, "--prompts", prompt_file)
    assert (result.code, result.out) == (1, "")
    assert result.err == f"train: {sd} has no training.json that names its base; give --against.\n"
    result = train("sample", "--model", sd, "--against", sd, "--prompts", prompt_file)
    assert (result.code, result.out) == (2, "")
    assert result.err == f"train: The model {sd} is named twice; give one of them another name by NAME=MODEL.\n"


def test_a_model_that_does_not_open_leaves_nothing(train: Train, sd: Path, prompt_file: Path, tmp_path: Path) -> None:
    options = ("--prompts", prompt_file, "--output", tmp_path / "out")
    result = train("sample", "--model", sd, "--against", tmp_path, *options)
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith(f"train: {tmp_path} is not a diffusers pipeline folder: it has no model_index.json;")
    assert not (tmp_path / "out").exists()
    result = train("sample", "--model", f"a={sd}", "--against", sd, *options, "--scheduler", "best")
    assert (result.code, result.out) == (2, "")
    assert not (tmp_path / "out").exists()


def test_pictures_of_other_settings_are_never_mixed(
    train: Train, sd: Path, others: list[Path], prompt_file: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(others[0], tmp_path / "model"))
    output = tmp_path / "out"
    options = ("--model", f"a={model}", "--against", f"b={sd}", "--prompts", prompt_file, "--output", output)
    assert train("sample", *options, *FEW).code == 0
    stopped = train("sample", *options, "--steps", 3, "--guidance", 3, "--scheduler", "euler")
    assert (stopped.code, stopped.out) == (1, "")
    assert stopped.err == (
        f"train: {output} holds pictures drawn under other settings"
        " (steps was 2, now 3; scheduler was None, now euler);"
        " name another --output, or remove it.\n"
    )
    shutil.copytree(others[1], model, dirs_exist_ok=True)
    stopped = train("sample", *options, *FEW)
    assert "(a had other weights)" in stopped.err


def test_what_is_there_stays_and_more_may_be_asked_for(
    train: Train, sd: Path, others: list[Path], prompt_file: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    two = ("--model", f"a={others[0]}", "--against", f"b={sd}", "--output", output, *FEW, "--batch", 2)
    few = tmp_path / "few.txt"
    few.write_text(PROMPTS[1])
    assert train("sample", *two, "--prompts", few).code == 0
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*.png")}
    more = ("--model", f"c={others[1]}", "--prompts", prompt_file, "--images-per-prompt", 2)
    assert train("sample", *two, *more).code == 0
    assert len(rows(output)) == 3 * 6
    assert before.items() <= {path: path.stat().st_mtime_ns for path in output.rglob("*.png")}.items()
    whole = tmp_path / "whole"
    whole_run = ("--model", f"a={others[0]}", "--against", f"b={sd}", "--output", whole, *FEW, *more)
    assert train("sample", *whole_run).code == 0
    seeds = [(row["prompt"], row["seed"], row["image_0_model"]) for row in rows(whole)]
    assert seeds == [(row["prompt"], row["seed"], row["image_0_model"]) for row in rows(output)]


def test_a_damaged_part_is_drawn_again(
    train: Train, sd: Path, others: list[Path], prompt_file: Path, tmp_path: Path
) -> None:
    options = ("--model", others[0], "--against", sd, "--prompts", prompt_file, "--output", tmp_path / "out", *FEW)
    train("sample", *options)
    before = rows(tmp_path / "out")
    next((tmp_path / "out").rglob("*.png")).write_bytes(b"\x89PNG")
    train("sample", *options)
    assert rows(tmp_path / "out") == before


@pytest.mark.slow
def test_killed_and_run_again_it_ends_the_same(others: list[Path], sd: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(f"box {letter}" for letter in "abcdefghijkl"))
    named = ("--model", f"a={others[0]}", "--model", f"b={sd}", "--prompts", prompts, "--steps", 6, "--batch", 1)

    def command(output: Path) -> list[str]:
        return [sys.executable, "-m", "train.cli", "sample", *map(str, named), "--output", str(output)]

    env = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command(tmp_path / "killed"), cwd=ROOT, env=env, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while len(list((tmp_path / "killed").rglob("part.json"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "pairs.parquet").exists()
    for name in ("killed", "whole"):
        subprocess.run(command(tmp_path / name), cwd=ROOT, env=env, check=True, capture_output=True)
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")
    assert (tmp_path / "killed" / "manifest.toml").read_text() == (tmp_path / "whole" / "manifest.toml").read_text()


def sampling(model: str, score_models: str | None = None) -> Sampling:
    models = (Model(model, model), Model("demo", "demo"))
    return Sampling(models, [Prompt(one) for one in PROMPTS], 1, GenerationSettings(1, 1.0), 1, 0, score_models)


def test_a_manifest_survives_any_name() -> None:
    name = 'C:\\models\\"größer" \U0001f600\x7f\n'
    document = tomllib.loads(manifest(sampling(name), {}))
    assert document["description"] == f"{name} against demo, seed 0"
    assert document["sampled"]["models"][0]["name"] == name


@pytest.mark.parametrize(
    ("model", "asked", "written"),
    [("demo", None, "demo"), ("demo", "published", "published"), ("x/y", "demo", "demo"), ("x/y", None, None)],
)
def test_the_manifest_asks_for_scoring_models(model: str, asked: str | None, written: str | None) -> None:
    assert tomllib.loads(manifest(sampling(model, asked), {})).get("models") == written


def test_a_model_may_have_a_name_and_a_path_may_have_a_sign(tmp_path: Path) -> None:
    assert parse_model("tuned=run/model") == Model("tuned", "run/model")
    assert parse_model("run/model") == Model("run/model", "run/model")
    odd = tmp_path / "a=b"
    odd.mkdir()
    assert parse_model(str(odd)) == Model(str(odd), str(odd))
