"""Families of today's models behind the one interface: what diffusers' own pipelines compute, and a LoRA that loads."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from tests.train import tiny
from tests.train.caches import build
from tests.train.conftest import Outcome, Train
from tests.train.training.test_run import LORA
from train.config import Objective
from train.data.latents import Batch, OnTheFly, encode_posterior
from train.data.pairs import read_pairs
from train.model.families import FAMILIES, encode_prompts, load
from train.model.saving import open_pipeline
from train.sample.generate import GenerationSettings, generate, picture_requests
from train.sample.prompts import Prompt
from train.training.pair_errors import pair_errors

RunTiny = Callable[..., Outcome]
Tensor = torch.Tensor
PROMPTS = ["red box", "a blue box that is longer"]


class ZImage:
    """What the family must compute, in calls of diffusers."""

    save = staticmethod(tiny.save_zimage)

    @staticmethod
    def latents(pipeline: Any, pixels: Tensor) -> Tensor:
        mode = pipeline.vae.encode(pixels).latent_dist.mode()
        return (mode - pipeline.vae.config.shift_factor) * pipeline.vae.config.scaling_factor

    @staticmethod
    def flow(pipeline: Any, noisy: Tensor, told: Tensor) -> Tensor:
        embeds, _ = pipeline.encode_prompt(list(PROMPTS), "cpu", do_classifier_free_guidance=False)
        found = pipeline.transformer(list(noisy.unsqueeze(2)), (1000 - told) / 1000, embeds, return_dict=False)[0]
        return -torch.stack(found).squeeze(2)


KINDS: dict[str, Any] = {"zimage": ZImage}


@pytest.fixture(scope="module", params=KINDS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(KINDS[name].save(tmp_path_factory.mktemp("models") / name))


def test_latents_and_errors_are_those_of_the_pipeline_s_own_pieces(name: str, folder: Path) -> None:
    """Error of a pair: the mean square of (noise - latents) less the prediction, at sigma by the scheduler's shift."""
    model, pipeline = load(str(folder)), DiffusionPipeline.from_pretrained(folder)
    assert model.family is FAMILIES[name]
    with torch.no_grad():
        pixels = torch.rand(4, 3, 32, 32) * 2 - 1
        latents, _ = encode_posterior(model, pixels)
        torch.testing.assert_close(latents, KINDS[name].latents(pipeline, pixels))
        assert latents.shape[1:] == model.latent_shape(32)
        noise, steps = torch.randn_like(latents[:2]), torch.tensor([249, 749])
        conditioning = encode_prompts(model, 2 * PROMPTS)
        batch = Batch(latents.unflatten(0, (2, 2)), noise, steps, conditioning)
        found = pair_errors(
            model.denoiser, lambda: nullcontext(model.denoiser), model.scheduler, batch, Objective("orpo", 0.0)
        )
        sigma = model.scheduler.sigmas.flip(0)[steps]
        for side, error in ((latents[:2], found.policy_w), (latents[2:], found.policy_l)):
            level = sigma[:, None, None, None]
            flow = KINDS[name].flow(pipeline, (1 - level) * side + level * noise, 1000 * sigma)
            torch.testing.assert_close(error, (flow - (noise - side)).square().flatten(1).mean(1))


def picture(pipeline: Any) -> Tensor:
    pipeline.set_progress_bar_config(disable=True)
    return generate(pipeline, picture_requests([Prompt("red box")], 1, 0), GenerationSettings(2, 2.0, None, 32))


def test_the_cache_gives_what_the_encoders_give(folder: Path, shards: Path, tmp_path: Path) -> None:
    """In float16, prompts of several lengths in one batch, the empty one among them."""
    model, pairs = load(str(folder)), read_pairs(shards)
    cache, prompts = build(tmp_path, model, pairs), [0, 1, len(pairs.prompts)]
    noise = torch.randn(3, *model.latent_shape(32))
    found, expected = (
        source.encoded([0, 1, 2], noise, [False, True, False], prompts)
        for source in (cache, OnTheFly(model, pairs, 32))
    )
    torch.testing.assert_close(found[0], expected[0], rtol=2e-3, atol=2e-3)
    parts, wanted = found[1].parts(), expected[1].parts()
    assert type(found[1]) is type(expected[1])
    assert parts.keys() == wanted.keys()
    for part, value in parts.items():
        torch.testing.assert_close(value, wanted[part], rtol=2e-3, atol=2e-3)


def test_a_lora_trains_loads_in_a_fresh_pipeline_and_draws(
    run_tiny: RunTiny, train: Train, folder: Path, tmp_path: Path
) -> None:
    result = run_tiny(tmp_path / "out", *LORA, "--steps", 2, model=folder)
    assert result.code == 0, result.err
    model = result.json()["model"]
    fresh = DiffusionPipeline.from_pretrained(folder)
    before = picture(fresh)
    fresh.load_lora_weights(model)
    after = picture(fresh)
    assert before.shape == (1, 3, 32, 32)
    assert not torch.equal(before, after)
    torch.testing.assert_close(picture(open_pipeline(model, torch.float32)), after)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("red box\n")
    options = ("--model", model, "--prompts", prompts, "--output", tmp_path / "sampled", "--steps", 1, "--json")
    assert train("sample", *options, "--resolution-px", 32).json()["pairs"] == 1


def test_a_dry_run_counts_its_memory(train: Train, shards: Path, folder: Path, recipe_file: Path) -> None:
    options = (
        "--shards",
        shards,
        "--model",
        folder,
        "--preset",
        "demo",
        "--config",
        recipe_file,
        "--dry-run",
        "--json",
    )
    found = train("run", *options).json()
    assert found["bytes_on_each_device"]["activations"] > 0
    assert found["cache_bytes"] > 0
