"""What to draw, and one batch of it through a pipeline: the same prompts from the same noise, whichever model draws."""

import hashlib
import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers.models.autoencoders.vae import DecoderOutput
from PIL import Image

from train.errors import SettingsError
from train.model.device import check_gpu
from train.model.families import LatentShape, family_drawn_by, family_of
from train.model.memory import AtOnce, enough_memory
from train.model.saving import open_pipeline, pipeline_of
from train.sample.prompts import Prompt

BLACK_MAX_VALUE = 2  # of 255: what a decoder gives whose values were lost
DECODED_PX = 512 * 512  # decoded at once on the CPU: no more memory than one picture of SD1.5 needs
DECODED_PX_ON_ACCELERATORS = 8 * DECODED_PX

# Short words for diffusers' schedulers; any other compatible one goes by its class's name.
SCHEDULERS = {
    "ddim": "DDIMScheduler",
    "ddpm": "DDPMScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler-a": "EulerAncestralDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
    "deis": "DEISMultistepScheduler",
    "unipc": "UniPCMultistepScheduler",
}


class PictureRequest(NamedTuple):
    """One picture to draw: its noise comes from `seed` alone."""

    prompt: Prompt
    seed: int

    @property
    def key(self) -> tuple[str, int]:
        """What tells one request from another."""
        return self.prompt.text, self.seed


@dataclass(frozen=True)
class GenerationSettings:
    """How pictures are drawn. scheduler: one of SCHEDULERS or a class's name; None: the pipeline's own.

    resolution_px: the side of a picture; None: the model's own.
    """

    steps: int
    guidance: float
    scheduler: str | None = None
    resolution_px: int | None = None


class GeneratedPicture(NamedTuple):
    """A picture, and `black` or `not_finite` where it is no picture that could be compared."""

    image: Image.Image
    fault: str | None


def picture_requests(prompts: Iterable[Prompt], images_per_prompt: int, seed: int) -> list[PictureRequest]:
    """Prompt by prompt. An image's seed depends on (seed, prompt, number), not on the prompt's place."""
    return [
        PictureRequest(prompt, _image_seed(seed, prompt.text, number))
        for prompt in prompts
        for number in range(images_per_prompt)
    ]


def _image_seed(seed: int, prompt: str, number: int) -> int:
    """63 bits, as a signed 64-bit column holds them."""
    digest = hashlib.sha256(f"{seed}\0{number}\0{prompt}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def open_generator(source: str, scheduler: str | None, resolution_px: int | None = None) -> Any:
    """A pipeline on this machine's device, its latents decoded in slices. Raises: ModelError, SettingsError."""
    check_gpu()
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    half = family_of(pipeline_of(source)).half
    pipeline = open_pipeline(source, torch.float32 if device.type == "cpu" else half)
    if scheduler is not None:
        pipeline.scheduler = _scheduler(pipeline.scheduler, scheduler)
    family = family_drawn_by(pipeline)
    picture_px = family.factor(pipeline.vae.config) ** 2 * math.prod(_latent_shape(pipeline, resolution_px)[1:])
    most_px = DECODED_PX if device.type == "cpu" else DECODED_PX_ON_ACCELERATORS
    pipeline.vae.decode = SlicedDecode(pipeline.vae.decode, max(1, most_px // picture_px))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


class SlicedDecode:
    """A VAE's `decode`, at most `pictures` latents at a time; being out of memory halves that for good."""

    def __init__(self, decode: Callable[..., Any], pictures: int) -> None:
        self.decode, self.at_once = decode, AtOnce(pictures)

    def __call__(self, z: torch.Tensor, return_dict: bool = True, generator: Any = None) -> Any:
        """z: (b, c, h, w). As AutoencoderKL's own. Raises: what `decode` raises, of memory too where b is 1."""
        pieces = self.at_once.run(len(z), lambda start, stop: self.decode(z[start:stop], return_dict=False)[0])
        pixels = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
        return DecoderOutput(pixels) if return_dict else (pixels,)


def _scheduler(own: Any, wanted: str) -> Any:
    """Another scheduler with the model's own noise schedule. Raises: SettingsError naming those that fit."""
    fitting = {kind.__name__: kind for kind in [type(own), *own.compatibles]}
    kind = fitting.get(SCHEDULERS.get(wanted, wanted))
    if kind is None:
        words = {name: word for word, name in SCHEDULERS.items()}
        known = ", ".join(sorted(words.get(name, name) for name in fitting))
        raise SettingsError(f"--scheduler {wanted}: this model takes {known}.")
    return kind.from_config(own.config)


@torch.no_grad()
def generate(pipeline: Any, requests: list[PictureRequest], generation: GenerationSettings) -> torch.Tensor:
    """(batch, 3, h, w) in [0, 1], on the CPU; what a picture looks like does not depend on the other requests."""
    shape, family = _latent_shape(pipeline, generation.resolution_px), family_drawn_by(pipeline)
    noise = [np.random.default_rng(one.seed).standard_normal(shape, dtype=np.float32) for one in requests]
    latents = torch.from_numpy(np.stack(noise)).to(pipeline.device, pipeline.vae.dtype)
    pixels: torch.Tensor = pipeline(
        prompt=[one.prompt.text for one in requests],
        generator=[torch.Generator().manual_seed(one.seed) for one in requests],  # for schedulers that add noise
        num_inference_steps=generation.steps,
        output_type="pt",
        **family.drawing(latents, family.factor(pipeline.vae.config), generation.guidance),
    ).images
    return pixels.cpu()


def to_picture(pixels: torch.Tensor) -> GeneratedPicture:
    """pixels: (3, h, w) in [0, 1], rounded as diffusers rounds them. What is not finite becomes black, and is named."""
    pixels = pixels.float()
    finite = bool(torch.isfinite(pixels).all())
    values = (pixels.nan_to_num(0.0).clamp(0, 1) * 255).round().to(torch.uint8)
    image = Image.fromarray(values.permute(1, 2, 0).contiguous().numpy())
    if not finite:
        return GeneratedPicture(image, "not_finite")
    return GeneratedPicture(image, "black" if int(values.max()) <= BLACK_MAX_VALUE else None)


def _latent_shape(pipeline: Any, resolution_px: int | None) -> LatentShape:
    family = family_drawn_by(pipeline)
    config = getattr(pipeline, family.denoiser_name).config
    size, side = config.get("sample_size"), resolution_px or family.drawn_px
    if size is None or resolution_px is not None:
        return family.latent_shape(config, pipeline.vae.config, side, side)
    height, width = (size, size) if isinstance(size, int) else size
    return config["in_channels"], height, width


def enough_memory_to_draw(model: str, batch_images: int) -> AbstractContextManager[None]:
    """Turn a refused allocation into what to change. Raises: MemoryFullError."""
    change = "free some, or take a smaller model"
    if batch_images > 1:
        change = f"lower --batch from {batch_images}, which changes pictures by rounding at most, or free some"
    return enough_memory(f"to draw with {model}: {change}; run again, and it goes on.")
