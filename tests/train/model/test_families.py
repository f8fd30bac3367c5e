import json
import math
from pathlib import Path
from typing import Literal

import pytest
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from tests.train import tiny
from train.config import Lora
from train.errors import ModelError
from train.model.families import Conditioning, add_noise, denoise, encode_prompts, load
from train.model.lora import add_lora, trainable

PROMPTS = ["red box", "a prompt that is longer than the tokenizer can take"]


def refused(source: Path | str) -> str:
    with pytest.raises(ModelError) as caught:
        load(str(source))
    return str(caught.value)


def test_sd_denoise_equals_a_plain_diffusers_call(sd: Path) -> None:
    model, pipeline = load(str(sd)), DiffusionPipeline.from_pretrained(sd)
    noisy, timesteps = torch.randn(2, 4, 16, 16), torch.tensor([3, 700])
    conditioning = encode_prompts(model, PROMPTS)
    assert conditioning.pooled_embeds is None
    embeds, _ = pipeline.encode_prompt(PROMPTS, "cpu", 1, do_classifier_free_guidance=False)
    with torch.no_grad():
        expected = pipeline.unet(noisy, timesteps, encoder_hidden_states=embeds).sample
        torch.testing.assert_close(denoise(model.denoiser, noisy, timesteps, conditioning), expected, rtol=0, atol=0)


def test_sdxl_denoise_equals_a_plain_diffusers_call(sdxl: Path) -> None:
    model, pipeline = load(str(sdxl)), DiffusionPipeline.from_pretrained(sdxl)
    noisy, timesteps = torch.randn(2, 4, 16, 16), torch.tensor([3, 700])
    time_ids = torch.tensor([[64.0, 48, 0, 8, 32, 32], [32, 32, 0, 0, 32, 32]])
    encoded = encode_prompts(model, PROMPTS)
    conditioning = Conditioning(encoded.prompt_embeds, encoded.pooled_embeds, time_ids)
    embeds, _, pooled, _ = pipeline.encode_prompt(PROMPTS, device="cpu", do_classifier_free_guidance=False)
    with torch.no_grad():
        expected = pipeline.unet(
            noisy,
            timesteps,
            encoder_hidden_states=embeds,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": time_ids},
        ).sample
        torch.testing.assert_close(denoise(model.denoiser, noisy, timesteps, conditioning), expected, rtol=0, atol=0)


def test_an_empty_prompt_is_what_guidance_uses(sd: Path, sdxl: Path) -> None:
    embeds = encode_prompts(load(str(sdxl)), ["", "red box"])
    assert embeds.pooled_embeds is not None
    assert embeds.prompt_embeds[0].abs().max() == embeds.pooled_embeds[0].abs().max() == 0
    assert embeds.prompt_embeds[1].abs().min() > 0
    _, negative = DiffusionPipeline.from_pretrained(sd).encode_prompt("red box", "cpu", 1, True)
    torch.testing.assert_close(encode_prompts(load(str(sd)), [""]).prompt_embeds, negative, rtol=0, atol=0)


def test_targets_are_the_noise_or_the_velocity(sd: Path, tmp_path: Path) -> None:
    latents, noise, timesteps = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8), torch.tensor([10, 900])
    for kind, folder in (("epsilon", sd), ("v_prediction", tiny.save_sd(tmp_path, prediction_type="v_prediction"))):
        scheduler = load(str(folder)).scheduler
        alpha = scheduler.alphas_cumprod[timesteps].sqrt()[:, None, None, None]
        sigma = (1 - scheduler.alphas_cumprod[timesteps]).sqrt()[:, None, None, None]
        noisy, target, told = add_noise(scheduler, latents, noise, timesteps)
        assert torch.equal(told, timesteps)
        torch.testing.assert_close(noisy, alpha * latents + sigma * noise)
        torch.testing.assert_close(target, noise if kind == "epsilon" else alpha * noise - sigma * latents)


def test_a_new_lora_changes_nothing_and_is_float32(sd: Path) -> None:
    model = load(str(sd))
    noisy, timesteps = torch.randn(2, 4, 16, 16), torch.tensor([3, 700])
    conditioning = encode_prompts(model, PROMPTS)
    with torch.no_grad():
        before = denoise(model.denoiser, noisy, timesteps, conditioning)
        add_lora(model.denoiser, Lora(rank=2), seed=0)
        assert torch.equal(denoise(model.denoiser, noisy, timesteps, conditioning), before)
    parameters = trainable(model.denoiser)
    assert parameters
    assert all("lora" in name for name in parameters)
    half = load(str(sd)).denoiser
    torch.nn.Module.to(half, torch.bfloat16)
    add_lora(half, Lora(rank=2), seed=0)
    assert {parameter.dtype for parameter in trainable(half).values()} == {torch.float32}


def test_lora_weights_start_from_the_seed_alone(sd: Path) -> None:
    def first(seed: int) -> torch.Tensor:
        torch.randn(3)  # the global generator must not matter, nor be moved
        unet = load(str(sd)).denoiser
        add_lora(unet, Lora(rank=2), seed=seed)
        return next(iter(trainable(unet).values())).detach()

    assert torch.equal(first(0), first(0))
    assert not torch.equal(first(0), first(1))


@pytest.mark.parametrize("init", ["gaussian", "kaiming"])
def test_lora_weights_start_with_the_deviation_that_is_stated(sd: Path, init: Literal["gaussian", "kaiming"]) -> None:
    unet = load(str(sd)).denoiser
    add_lora(unet, Lora(rank=16, init=init), seed=0)
    first = {name: weight for name, weight in trainable(unet).items() if "lora_A" in name}
    assert first
    assert all(weight.abs().max() == 0 for name, weight in trainable(unet).items() if "lora_B" in name)
    for weight in first.values():
        expected = 1 / 16 if init == "gaussian" else 1 / math.sqrt(3 * weight.shape[1])
        assert weight.std().item() == pytest.approx(expected, rel=0.15)


def test_targets_that_match_nothing_are_refused(sd: Path) -> None:
    with pytest.raises(ModelError, match=r"^No layer of the denoiser matches lora.targets \['q_proj'\]\.$"):
        add_lora(load(str(sd)).denoiser, Lora(rank=2, targets=("q_proj",)), seed=0)


def test_a_folder_that_is_no_pipeline(sd: Path, tmp_path: Path) -> None:
    assert refused(sd / "unet") == (
        f"{sd / 'unet'} is not a diffusers pipeline folder: it has no model_index.json;"
        " give a folder saved with `save_pretrained`, or a hub id."
    )
    assert refused(tmp_path / "absent") == (
        f"{tmp_path / 'absent'} is neither a folder nor a model that the hub gives; check the name and the network."
    )
    assert refused("nobody/nothing").startswith("nobody/nothing is neither a folder nor a model")


def test_a_pipeline_of_another_class(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    assert refused(tmp_path) == (
        f"{tmp_path} is a FluxPipeline; train takes StableDiffusionPipeline,"
        " StableDiffusionXLPipeline, StableDiffusion3Pipeline, ZImagePipeline only."
    )


@pytest.mark.parametrize("data", [b"{", b"[1]", b"[]", b"{}", b"\xff\xfe"])
def test_a_pipeline_whose_index_is_damaged(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "model_index.json").write_bytes(data)
    assert refused(tmp_path).startswith(f"{tmp_path / 'model_index.json'} is damaged (")


def test_a_pipeline_with_a_part_missing(tmp_path: Path) -> None:
    folder = tiny.save_sd(tmp_path / "sd")
    (folder / "vae" / "config.json").unlink()
    assert refused(folder).startswith(f"{folder} is not a whole pipeline: ")


def test_another_prediction_type(tmp_path: Path) -> None:
    folder = tiny.save_sd(tmp_path / "sd", prediction_type="sample")
    assert refused(folder) == f"{folder} predicts `sample`; train takes `epsilon` and `v_prediction`."


def test_a_resolution_that_does_not_fit(sd: Path) -> None:
    model = load(str(sd))
    assert model.latent_shape(32) == (4, 16, 16)
    with pytest.raises(ModelError, match=r"^resolution_px is 34; this model needs a multiple of 4\.$"):
        model.latent_shape(34)
