import hashlib
import io
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from schemas.manifests import COLUMN_KEYS, MANIFEST_KEYS, SPLIT_KEYS
from schemas.tables import SAMPLED_PAIRS
from tests.train.conftest import Outcome, Train
from train.sample import Sampling, drawings, manifest

PROMPTS = ["red box", "green box", "blue sky"]
FEW = ("--steps", 2, "--guidance", 3)


@pytest.fixture
def prompt_file(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(PROMPTS))
    return path


@pytest.fixture(scope="module")
def other_sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.train import tiny

    return tiny.save_sd(tmp_path_factory.mktemp("models") / "other", seed=1)


def pixels(data: bytes) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(io.BytesIO(data))).astype(int)


def rows(output: Path) -> list[dict[str, Any]]:
    table = pq.read_table(output / "pairs.parquet")
    assert table.schema.equals(SAMPLED_PAIRS)
    return table.to_pylist()


def test_pairs_follow_the_schema_and_the_manifest_names_them(
    train: Train, sd: Path, other_sd: Path, prompt_file: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    options = ("--prompts", prompt_file, "--output", output, "--images-per-prompt", 2, "--batch", 4)
    result = train("sample", "--model", other_sd, "--against", sd, *options, *FEW, "--json")
    assert result.code == 0, result.err
    assert result.json() == {"manifest": str(output / "manifest.toml"), "pairs": 6, "prompts": 3}
    assert result.err.splitlines()[-1] == "sample 6/6"
    found = rows(output)
    assert [row["prompt"] for row in found] == [prompt for prompt in PROMPTS for _ in range(2)]
    assert {(row["image_0_model"], row["image_1_model"]) for row in found} == {(str(other_sd), str(sd))}
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


def test_a_picture_does_not_depend_on_the_batch_nor_on_its_neighbours(
    train: Train, sd: Path, prompt_file: Path, tmp_path: Path
) -> None:
    alone = tmp_path / "alone.txt"
    alone.write_text(PROMPTS[2])
    for name, prompts, batch in (("one", prompt_file, 1), ("three", prompt_file, 3), ("alone", alone, 2)):
        options = ("--prompts", prompts, "--output", tmp_path / name, "--batch", batch)
        assert train("sample", "--model", sd, "--against", sd, *options, *FEW).code == 0
    one, three, single = (rows(tmp_path / name) for name in ("one", "three", "alone"))
    for left, right in [*zip(one, three, strict=True), (one[2], single[0])]:
        assert left["seed"] == right["seed"]
        assert np.abs(pixels(left["image_0_bytes"]) - pixels(right["image_0_bytes"])).max() <= 1


def test_one_model_against_itself_draws_the_same_under_two_uids(
    train: Train, sd: Path, prompt_file: Path, tmp_path: Path
) -> None:
    options = ("--prompts", prompt_file, "--output", tmp_path / "out")
    train("sample", "--model", sd, "--against", sd, *options, *FEW)
    for row in rows(tmp_path / "out"):
        assert row["image_0_bytes"] == row["image_1_bytes"]
        assert row["image_0_uid"] != row["image_1_uid"]
    again = ("--prompts", prompt_file, "--output", tmp_path / "again")
    train("sample", "--model", sd, "--against", sd, *again, *FEW)
    assert rows(tmp_path / "out") == rows(tmp_path / "again")
    train("sample", "--model", sd, "--against", sd, *again, *FEW, "--seed", 1)
    assert not {row["seed"] for row in rows(tmp_path / "out")} & {row["seed"] for row in rows(tmp_path / "again")}


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


def test_sdxl_is_drawn_too(train: Train, sdxl: Path, prompt_file: Path, tmp_path: Path) -> None:
    options = ("--prompts", prompt_file, "--output", tmp_path / "out")
    result = train("sample", "--model", sdxl, "--against", sdxl, *options, *FEW)
    assert result.code == 0, result.err
    assert len(rows(tmp_path / "out")) == 3


def test_without_a_base_on_record_the_other_model_must_be_named(train: Train, sd: Path, prompt_file: Path) -> None:
    result = train("sample", "--model", sd, "--prompts", prompt_file)
    assert (result.code, result.out) == (1, "")
    assert result.err == f"train: {sd} has no training.json that names its base; give --against.\n"


def test_a_model_that_does_not_open_leaves_nothing(train: Train, sd: Path, prompt_file: Path, tmp_path: Path) -> None:
    options = ("--prompts", prompt_file, "--output", tmp_path / "out")
    result = train("sample", "--model", sd, "--against", tmp_path, *options)
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith(f"train: {tmp_path} is not a diffusers pipeline folder: it has no model_index.json;")
    assert not (tmp_path / "out").exists()


def test_seeds_fit_a_signed_column_and_depend_on_the_prompt_not_its_place() -> None:
    def seeds(prompts: list[str], seed: int = 0) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for one in drawings(Sampling("a", "b", prompts, 2, 1, 1.0, 1, seed)):
            found.setdefault(one.prompt, []).append(one.seed)
        return found

    assert seeds(PROMPTS) == seeds(PROMPTS[::-1])
    assert seeds(PROMPTS) != seeds(PROMPTS, seed=1)
    flat = [seed for pair in seeds(PROMPTS).values() for seed in pair]
    assert len(set(flat)) == 6
    assert all(0 <= seed < 2**63 for seed in flat)


def test_a_manifest_survives_any_name() -> None:
    name = 'C:\\models\\"größer" \U0001f600\x7f\n'
    document = tomllib.loads(manifest(Sampling(name, "demo", PROMPTS, 1, 1, 1.0, 1, 0), 3))
    assert document["description"] == f"{name} (side 0) against demo (side 1), seed 0"


@pytest.mark.parametrize(
    ("model", "asked", "written"),
    [("demo", None, "demo"), ("demo", "published", "published"), ("x/y", "demo", "demo"), ("x/y", None, None)],
)
def test_the_manifest_asks_for_scoring_models(model: str, asked: str | None, written: str | None) -> None:
    sampling = Sampling(model, "demo", PROMPTS, 1, 1, 1.0, 1, 0, asked)
    assert tomllib.loads(manifest(sampling, 3)).get("models") == written


def test_uids_are_stable(train: Train, sd: Path, prompt_file: Path, tmp_path: Path) -> None:
    train("sample", "--model", sd, "--against", sd, "--prompts", prompt_file, "--output", tmp_path / "out", *FEW)
    row = rows(tmp_path / "out")[0]
    named = f"1\0{sd}\0{row['seed']}\0{row['prompt']}\0".encode() + row["image_1_bytes"]
    assert row["image_1_uid"] == hashlib.sha256(named).hexdigest()[:32]
