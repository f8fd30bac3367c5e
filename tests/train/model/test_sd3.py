"""SD3-class models behind the same interface: a transformer, flow matching, three text encoders."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from tests.train import tiny
from tests.train.conftest import Outcome, Train
from tests.train.training.test_run import LORA, equal, log, picture, weights
from train.model.families import add_noise, denoise, encode_prompts, load
from train.model.saving import open_pipeline

RunTiny = Callable[..., Outcome]
PROMPTS = ["red box", "a prompt that is longer than the tokenizer can take"]


@pytest.mark.parametrize("t5", [True, False], ids=["with t5", "without t5"])
def test_denoise_equals_a_plain_diffusers_call(tmp_path: Path, t5: bool) -> None:
    folder = tiny.save_sd3(tmp_path, t5=t5)
    model, pipeline = load(str(folder)), open_pipeline(str(folder), torch.float32)
    noisy, timesteps = torch.randn(2, 4, 16, 16), torch.tensor([3.5, 700.0])
    conditioning = encode_prompts(model, PROMPTS)
    with torch.no_grad():
        embeds, _, pooled, _ = pipeline.encode_prompt(PROMPTS, None, None, "cpu", do_classifier_free_guidance=False)
        torch.testing.assert_close(conditioning.prompt_embeds, embeds, rtol=0, atol=0)
        expected = pipeline.transformer(
            noisy, timestep=timesteps, encoder_hidden_states=embeds, pooled_projections=pooled
        ).sample
        torch.testing.assert_close(denoise(model.denoiser, noisy, timesteps, conditioning), expected, rtol=0, atol=0)
    assert conditioning.time_ids is None


def test_the_target_is_the_flow_at_the_scheduler_s_own_level(sd3: Path) -> None:
    """Shift 3: sigma = 3 s / (1 + 2 s) of s = (t + 1) / 1000, and the model is told 1000 sigma."""
    scheduler = load(str(sd3)).scheduler
    latents, noise, timesteps = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8), torch.tensor([0, 499, 999])
    noisy, target, told = add_noise(scheduler, latents, noise, timesteps)
    plain = (timesteps + 1) / 1000
    sigma = 3 * plain / (1 + 2 * plain)
    torch.testing.assert_close(told, 1000 * sigma)
    torch.testing.assert_close(target, noise - latents)
    level = sigma[:, None, None, None]
    torch.testing.assert_close(noisy, (1 - level) * latents + level * noise)
    torch.testing.assert_close(noisy - level * target, latents)  # following the flow back gives the picture
    assert told[2] == 1000


@pytest.mark.parametrize("kind", [(), LORA], ids=["full", "lora"])
def test_it_trains_resumes_and_opens(run_tiny: RunTiny, tmp_path: Path, sd3: Path, kind: tuple[Any, ...]) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    result = run_tiny(whole, *kind, model=sd3)
    assert result.code == 0, result.err
    run_tiny(broken, *kind, "--steps", 2, model=sd3)
    assert run_tiny(broken, *kind, "--resume", model=sd3).code == 0
    assert equal(weights(whole), weights(broken))
    records = log(whole)
    assert records[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert records[3]["policy_margin"] != records[3]["reference_margin"]
    model = result.json()["model"]
    assert json.loads((Path(model) / "training.json").read_text())["kind"] == ("lora" if kind else "full")
    trained, base = picture(open_pipeline(model, torch.float32)), picture(DiffusionPipeline.from_pretrained(sd3))
    assert trained.shape == (1, 32, 32, 3)
    assert not torch.equal(trained, base)


def test_it_is_sampled_like_the_others(run_tiny: RunTiny, train: Train, tmp_path: Path, sd3: Path) -> None:
    model = run_tiny(tmp_path / "out", *LORA, "--steps", 1, model=sd3).json()["model"]
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("red box\n")
    options = ("--model", model, "--prompts", prompts, "--output", tmp_path / "sampled", "--steps", 2, "--json")
    assert train("sample", *options).json()["pairs"] == 1


def test_its_preset_is_chosen_by_the_model(train: Train, shards: Path, sd3: Path) -> None:
    result = train("run", "--shards", shards, "--model", sd3, "--steps", 1, "--batch-pairs", 1, "--dry-run", "--json")
    assert result.err == (
        f"No --preset: taking sd3, which fits {sd3}.\n"
        "The cost is not counted: resolution_px is 512; this model takes pictures of 64 px at most.\n"
    )
    assert result.json()["recipe"]["lora"]["rank"] == 32
