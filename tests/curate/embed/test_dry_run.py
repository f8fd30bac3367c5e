"""What a dry run says of cost: counted from architectures, measured only when asked."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from curate.embed import dry_run
from curate.embed.device.batch_size import made_up
from curate.embed.dry_run import Rates, expected_time, total_tflop, tower_gflop
from curate.embed.options import ComputeOptions
from curate.embed.planning.plan import make_plan
from curate.errors import SourceError
from curate.models.model_set import TowerSpec, load_model_set
from curate.models.scoring import load_scoring
from curate.models.towers.flops import tower_flop
from curate.sources.manifest import load_manifest
from curate.sources.opening import open_source
from tests.curate.builders import MODELS, Outcome, pair_row, write_pairs

Curate = Callable[..., Outcome]


@pytest.mark.parametrize(("model", "image"), [("ViT-B-32", 8.8), ("ViT-L-14", 162.0), ("ViT-H-14", 334.6)])
def test_gflop_of_published_architectures(tmp_path: Path, model: str, image: float) -> None:
    """GFLOP at 224 px: 162 of ViT-L/14 and 334 of ViT-H/14, as others count them."""
    flop = tower_flop(TowerSpec("clip", "open_clip", {"model": model}), tmp_path)
    assert flop is not None
    assert flop[0] / 1e9 == pytest.approx(image, rel=0.005)


def test_gflop_by_hand() -> None:
    """The demo's HPSv2-like tower: its matrices, counted from the shapes of its weights."""
    models = load_model_set(MODELS)
    flop = tower_flop(models.towers["clip"], models.folder)
    scoring = load_scoring(models, models.choose(["clip"]), "cpu", "fp32")
    visual = scoring.towers["clip"].model.visual  # type: ignore[attr-defined]
    width, patches = visual.conv1.weight.shape[0], visual.grid_size[0] * visual.grid_size[1]
    tokens = patches + 1
    block = 24 * tokens * width**2 + 4 * tokens**2 * width  # q, k, v, out and a fourfold MLP; two products of attention
    expected = 2 * patches * visual.conv1.weight.numel() + visual.transformer.layers * block + 2 * visual.proj.numel()
    assert flop is not None
    assert flop[0] == expected


def test_every_family_of_the_demo_is_counted_and_an_unreachable_one_is_unknown(tmp_path: Path) -> None:
    models = load_model_set(MODELS)
    found = tower_gflop(models, models.choose(["clip", "pickscore", "hpsv2"]))
    assert all(tower["image"] > 0 and tower["prompt"] > 0 for tower in found.values())
    assert tower_flop(TowerSpec("x", "transformers_clip", {"model": "nobody/nothing"}), tmp_path) is None
    assert tower_flop(TowerSpec("x", "another", {}), tmp_path) is None


def test_total_and_time_are_sums_of_the_plan(source_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source(load_manifest("pickapic_v2"), None, [str(source_file)])
    plan = make_plan(source, 1024, 10**9)  # 21 images, 5 prompts
    assert total_tflop(plan, {"a": {"image": 2.0, "prompt": 1.0}, "b": {"image": 3.0, "prompt": 0.0}}) == 0.11
    assert total_tflop(plan, {"a": {"image": 2.0, "prompt": 1.0}, "b": None}) is None
    models = load_model_set(MODELS)
    scoring = load_scoring(models, models.choose(["clip"]), "cpu", "fp32")
    monkeypatch.setattr(dry_run, "measure", lambda *_: Rates(1000.0, 30.0, 70.0, 50.0))
    found = expected_time(source, plan, scoring, ComputeOptions("cpu", "fp32"), 1.0)
    assert found["images_per_sec"] == 21.0  # the cores do both: 1 / (1/30 + 1/70)
    assert found["seconds"] == 1.1  # 21 / 21 + 5 / 50
    monkeypatch.setattr(dry_run, "make_ready", lambda *_: 64)
    on_gpu = expected_time(source, plan, scoring, ComputeOptions("cuda", "bf16"), 1.0)
    assert (on_gpu["images_per_sec"], on_gpu["limited_by"], on_gpu["seconds"]) == (30.0, "decoding", 0.8)


def test_a_source_of_broken_images_has_no_rate(tmp_path: Path) -> None:
    rows = [pair_row(index, jpg_0=b"x", jpg_1=b"y") for index in range(4)]
    source = open_source(load_manifest("pickapic_v2"), None, [str(write_pairs(tmp_path / "s.parquet", rows))])
    models = load_model_set(MODELS)
    scoring = load_scoring(models, models.choose(["clip"]), "cpu", "fp32")
    with pytest.raises(SourceError, match=r"^none of the first 8 images can be decoded; correct --source or the"):
        expected_time(source, make_plan(source, 8, 10**9), scoring, ComputeOptions("cpu", "fp32"), 0.1)


def test_made_up_pictures_have_the_towers_shape() -> None:
    models = load_model_set(MODELS)
    scoring = load_scoring(models, models.choose(["clip", "hpsv2"]), "cpu", "fp32")
    pictures, matched, prompts = made_up(scoring, "cpu", 3)
    assert isinstance(pictures, dict)
    assert {tuple(values.shape) for values in pictures.values()} == {(3, 3, 64, 64)}
    assert (len(matched), len(prompts.texts)) == (6, 2)


def test_dry_run_counts_and_measures_only_when_asked(curate: Curate, source_file: Path, tmp_path: Path) -> None:
    arguments = ["embed", "--manifest", "pickapic_v2", "--models", MODELS, "--source", source_file, "--device", "cpu"]
    plain = json.loads(curate(*arguments, "--dry-run").out)
    assert plain["gflop"].keys() == {"clip", "pickscore"}
    assert "expected" not in plain
    measured = json.loads(curate(*arguments, "--dry-run", "--calibrate", 1, "--run", tmp_path / "run").out)
    rates = ("read_images_per_sec", "decode_images_per_sec", "tower_images_per_sec", "prompts_per_sec", "seconds")
    assert all(measured["expected"][name] > 0 for name in rates)
    assert measured["expected"]["batch_images"] == 64
    assert not (tmp_path / "run").exists()
    outcome = curate(*arguments, "--calibrate", 1)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err == "curate: --calibrate belongs to --dry-run: a run says how fast it is as it goes\n"
