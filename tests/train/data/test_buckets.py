from pathlib import Path

import pytest
import torch

from tests.train import tiny
from tests.train.caches import build
from tests.train.conftest import Outcome, Train
from tests.train.training.test_run import equal, log, weights
from train.config import load_recipe
from train.data.batches import BatchPlan
from train.data.buckets import bucketed, nearest, shapes
from train.data.latents import OnTheFly
from train.data.pairs import PairSet, read_pairs
from train.errors import ShardError
from train.model.families import load

WIDE, TALL, SQUARE = (64, 32), (32, 64), (32, 32)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pairs: two wide, two tall, one square, and a tall picture preferred to the first pair's rejected one."""
    sides = [WIDE, TALL, SQUARE, WIDE, TALL, TALL]
    samples = [
        tiny.sample(rank, "red box", tiny.picture("red", rank, size), tiny.picture("blue", 10 * rank, size))
        for rank, size in enumerate(sides, start=1)
    ]
    samples[5] = tiny.sample(6, "red box", tiny.picture("red", 6, TALL), tiny.picture("blue", 10, WIDE))
    return tiny.write_shards(tmp_path_factory.mktemp("mixed") / "shards", samples)


@pytest.fixture(scope="module")
def pairs(mixed: Path) -> PairSet:
    return bucketed(read_pairs(mixed), tiny.RESOLUTION_PX, 4)


def test_shapes_have_about_the_area_of_the_square_and_fit_the_model() -> None:
    offered = shapes(512, 64)
    assert (512, 512) in offered
    assert (384, 640) in offered
    assert (640, 384) in offered
    for height, width in offered:
        assert height % 64 == width % 64 == 0
        assert 0.7 * 512**2 <= height * width <= 512**2
        assert 0.5 <= height / width <= 2


def test_a_picture_goes_to_the_nearest_proportions() -> None:
    offered = shapes(512, 64)
    assert nearest((1000, 1000), offered) == (512, 512)
    assert nearest((640, 384), offered) == (384, 640)
    assert nearest((5000, 100), offered) == max(offered, key=lambda shape: shape[1] / shape[0])


def test_an_image_that_is_none_is_named_where_its_sample_gives_no_size(tmp_path: Path) -> None:
    sample = tiny.sample(1, "red box", b"not an image", tiny.picture("red", 1))
    pairs = read_pairs(tiny.write_shards(tmp_path / "shards", [sample]))
    with pytest.raises(ShardError, match=rf"^The image 000000001.preferred.png in {tmp_path}/.* cannot be decoded \("):
        bucketed(pairs, tiny.RESOLUTION_PX, 4)


def test_both_sides_of_a_pair_are_cut_alike(pairs: PairSet) -> None:
    for pair in pairs.pairs:
        assert pairs.shape_px(pair.preferred, 32) == pairs.shape_px(pair.rejected, 32)
    preferred = [pairs.shape_px(pair.preferred, 32) for pair in pairs.pairs]
    assert preferred[0][1] > preferred[0][0]
    assert preferred[1][0] > preferred[1][1]
    assert preferred[2] == (32, 32)
    # The picture that stands in a wide and in a tall pair is there twice.
    assert len(pairs.images) == 12
    assert pairs.images[pairs.pairs[0].rejected] == pairs.images[pairs.pairs[5].rejected]
    assert preferred[5] == preferred[1]


def test_micro_batches_are_of_one_shape_and_lose_nothing(pairs: PairSet, sd: Path, tmp_path: Path) -> None:
    model = load(str(sd))
    data = {"resolution_px": 32, "flips": True, "buckets": True}
    recipe = load_recipe("demo", None, {"data": data, "run": {"batch_pairs": 6, "micro_batch_pairs": 2}})
    sources = build(tmp_path, model, pairs, flips=True), OnTheFly(model, pairs, 32)
    cpu = torch.device("cpu")
    plans = [BatchPlan(recipe, pairs, source, cpu, 1000, (4, 16, 16), rank=0, processes=1) for source in sources]
    groups = plans[0].micro_batches(0)
    assert sorted(place.position for group in groups for place in group) == list(range(6))
    for group in groups:
        cached, encoded = (plan.batch(0, group) for plan in plans)
        height, width = pairs.shape_px(pairs.pairs[group[0].pair].preferred, 32)
        assert cached.latents.shape[3:] == cached.noise.shape[2:] == (height // 2, width // 2)
        torch.testing.assert_close(cached.latents, encoded.latents, rtol=2e-3, atol=2e-3)
        assert len(group) <= 2


def test_mixed_shapes_train_resume_and_share_a_cache(
    train: Train, mixed: Path, sdxl: Path, recipe_file: Path, tmp_path: Path
) -> None:
    config = tmp_path / "buckets.toml"
    config.write_text(recipe_file.read_text().replace("[data]\n", "[data]\nbuckets = true\n"))
    options = ("--shards", mixed, "--model", sdxl, "--preset", "demo", "--config", config, "--lora-rank", 2)

    def run(name: str, *more: object) -> Outcome:
        return train("run", *options, "--batch-pairs", 5, "--output", tmp_path / name, *more)

    assert run("whole").code == 0
    assert run("broken", "--steps", 2).code == 0
    resumed = run("broken", "--resume")
    assert resumed.code == 0, resumed.err
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "broken"))
    assert all(record["grad_norm"] > 0 for record in log(tmp_path / "whole"))
    assert "encode chunks" not in resumed.err
