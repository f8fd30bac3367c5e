"""Seeds, schedulers, and pictures that are none."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline

from train.errors import SettingsError
from train.sample.generate import (
    SCHEDULERS,
    GenerationSettings,
    PictureRequest,
    SlicedDecode,
    generate,
    open_generator,
    picture_requests,
    to_picture,
)
from train.sample.prompts import Prompt

PROMPTS = [Prompt(text) for text in ("red box", "green box", "blue sky")]


def test_seeds_fit_a_signed_column_and_depend_on_the_prompt_not_its_place() -> None:
    def seeds(prompts: list[Prompt], seed: int = 0) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for one in picture_requests(prompts, 2, seed):
            found.setdefault(one.prompt.text, []).append(one.seed)
        return found

    assert seeds(PROMPTS) == seeds(PROMPTS[::-1])
    assert seeds(PROMPTS) != seeds(PROMPTS, seed=1)
    flat = [seed for pair in seeds(PROMPTS).values() for seed in pair]
    assert len(set(flat)) == 6
    assert all(0 <= seed < 2**63 for seed in flat)


def test_the_pictures_are_those_of_diffusers_itself(sd: Path) -> None:
    """Byte for byte what the pipeline gives for this noise, the latents decoded in slices or not."""
    chunk = picture_requests(PROMPTS, 1, 0)
    ours = map(to_picture, generate(open_generator(str(sd), None), chunk, GenerationSettings(2, 3.0)))
    bare = StableDiffusionPipeline.from_pretrained(sd)
    bare.set_progress_bar_config(disable=True)
    shape = (4, 16, 16)
    noise = [np.random.default_rng(one.seed).standard_normal(shape, dtype=np.float32) for one in chunk]
    theirs = bare(
        [one.prompt.text for one in chunk],
        latents=torch.from_numpy(np.stack(noise)),
        num_inference_steps=2,
        guidance_scale=3.0,
    ).images
    for one, other in zip(ours, theirs, strict=True):
        assert one.fault is None
        assert np.abs(np.asarray(one.image).astype(int) - np.asarray(other).astype(int)).max() <= 1


def test_latents_are_decoded_in_slices_and_a_slice_too_large_is_halved_for_good() -> None:
    sizes: list[int] = []

    def decode(z: torch.Tensor, return_dict: bool) -> tuple[torch.Tensor]:
        sizes.append(len(z))
        if len(z) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return (z * 2,)

    latents = torch.arange(11.0).reshape(11, 1, 1, 1)
    sliced = SlicedDecode(decode, 8)
    torch.testing.assert_close(sliced(latents, return_dict=False)[0], latents * 2)
    assert sizes == [8, 4, 2, 2, 2, 2, 2, 1]
    sizes.clear()
    torch.testing.assert_close(sliced(latents[:3]).sample, latents[:3] * 2)
    assert sizes == [2, 1]


def test_a_slice_of_one_that_does_not_fit_and_other_errors_are_raised() -> None:
    def decode(z: torch.Tensor, return_dict: bool) -> tuple[torch.Tensor]:
        raise RuntimeError("another error" if len(z) == 3 else "DefaultCPUAllocator: can't allocate memory")

    with pytest.raises(RuntimeError, match="can't allocate memory"):
        SlicedDecode(decode, 2)(torch.zeros(2, 1, 1, 1))
    with pytest.raises(RuntimeError, match="another error"):
        SlicedDecode(decode, 3)(torch.zeros(3, 1, 1, 1))


def test_on_the_cpu_slices_hold_as_many_pixels_as_one_picture_of_512(sd: Path) -> None:
    assert open_generator(str(sd), None).vae.decode.at_once.count == 512 * 512 // (32 * 32)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of NumPy, for diffusers
@pytest.mark.parametrize("name", [*SCHEDULERS, "LMSDiscreteScheduler"])
def test_each_scheduler_draws(sd: Path, name: str) -> None:
    pipeline = open_generator(str(sd), name)
    assert type(pipeline.scheduler).__name__ == SCHEDULERS.get(name, name)
    assert (
        to_picture(generate(pipeline, picture_requests(PROMPTS[:1], 1, 0), GenerationSettings(3, 3.0, name))[0]).fault
        is None
    )


def test_a_scheduler_that_does_not_fit_names_those_that_do(sd: Path, sd3: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        open_generator(str(sd), "eular")
    assert str(caught.value).startswith("--scheduler eular: this model takes DPMSolverSDEScheduler, ")
    assert "dpm++, euler, euler-a, heun" in str(caught.value)
    with pytest.raises(SettingsError) as caught:
        open_generator(str(sd3), "ddim")
    assert str(caught.value) == "--scheduler ddim: this model takes FlowMatchEulerDiscreteScheduler."


def test_black_and_not_finite_pictures_are_named_and_their_neighbours_are_not(sd: Path) -> None:
    pipeline, chunk = open_generator(str(sd), None), picture_requests(PROMPTS, 1, 0)
    token = pipeline.tokenizer("sky", add_special_tokens=False).input_ids[-1]  # the last letter of one prompt alone
    with torch.no_grad():
        pipeline.text_encoder.get_input_embeddings().weight[token] = torch.nan
    found = generate(pipeline, chunk, GenerationSettings(2, 3.0))
    assert [to_picture(one).fault for one in found] == [None, None, "not_finite"]
    pipeline = open_generator(str(sd), None)
    with torch.no_grad():
        pipeline.vae.decoder.conv_out.weight.zero_()
        pipeline.vae.decoder.conv_out.bias.fill_(-1.0)
    assert [to_picture(one).fault for one in generate(pipeline, chunk, GenerationSettings(1, 1.0))] == ["black"] * 3


def test_a_category_is_no_part_of_what_is_drawn() -> None:
    assert PictureRequest(Prompt("a", "x"), 1).key == PictureRequest(Prompt("a"), 1).key
