"""What to draw and how one batch of it is drawn: the same prompts from the same noise, whichever model draws."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from train.errors import SettingsError
from train.export import open_pipeline
from train.prompts import Prompt

BLACK_AT_MOST = 2  # of 255: what a decoder gives whose values were lost

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


class Drawing(NamedTuple):
    """One picture to draw: its noise comes from `seed` alone."""

    prompt: Prompt
    seed: int

    @property
    def key(self) -> tuple[str, int]:
        """What tells one drawing from another."""
        return self.prompt.text, self.seed


@dataclass(frozen=True)
class Manner:
    """How pictures are drawn. scheduler: one of SCHEDULERS or a class's name; None: the pipeline's own."""

    steps: int
    guidance: float
    scheduler: str | None = None


class Drawn(NamedTuple):
    """A picture, and `black` or `not_finite` where it is no picture that could be compared."""

    image: Image.Image
    fault: str | None


def drawings(prompts: Iterable[Prompt], images_per_prompt: int, seed: int) -> list[Drawing]:
    """Prompt by prompt. An image's seed depends on (seed, prompt, number), not on the prompt's place."""
    return [
        Drawing(prompt, _image_seed(seed, prompt.text, number))
        for prompt in prompts
        for number in range(images_per_prompt)
    ]


def _image_seed(seed: int, prompt: str, number: int) -> int:
    """63 bits, as a signed 64-bit column holds them."""
    digest = hashlib.sha256(f"{seed}\0{number}\0{prompt}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def open_painter(source: str, scheduler: str | None) -> Any:
    """A pipeline on this machine's device, its latents decoded one by one. Raises: ModelError, SettingsError."""
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    painter = open_pipeline(source, torch.float32 if device.type == "cpu" else torch.float16)
    if scheduler is not None:
        painter.scheduler = _scheduler(painter.scheduler, scheduler)
    painter.vae.enable_slicing()
    painter.set_progress_bar_config(disable=True)
    return painter.to(device)


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
def paint(painter: Any, chunk: list[Drawing], manner: Manner) -> list[Drawn]:
    """The pictures of one batch; what a picture looks like does not depend on what else is in it."""
    shape = _latent_shape(painter)
    noise = [np.random.default_rng(one.seed).standard_normal(shape, dtype=np.float32) for one in chunk]
    pixels = painter(
        prompt=[one.prompt.text for one in chunk],
        latents=torch.from_numpy(np.stack(noise)).to(painter.device, _denoiser(painter).dtype),
        generator=[torch.Generator().manual_seed(one.seed) for one in chunk],  # for schedulers that add noise
        num_inference_steps=manner.steps,
        guidance_scale=manner.guidance,
        output_type="pt",
    ).images
    return [_drawn(one) for one in pixels.float().cpu()]


def _drawn(pixels: torch.Tensor) -> Drawn:
    """pixels: (3, h, w) in [0, 1], rounded as diffusers rounds them. What is not finite becomes black, and is named."""
    finite = bool(torch.isfinite(pixels).all())
    values = (pixels.nan_to_num(0.0).clamp(0, 1) * 255).round().to(torch.uint8)
    image = Image.fromarray(values.permute(1, 2, 0).contiguous().numpy())
    if not finite:
        return Drawn(image, "not_finite")
    return Drawn(image, "black" if int(values.max()) <= BLACK_AT_MOST else None)


def _latent_shape(painter: Any) -> tuple[int, int, int]:
    config = _denoiser(painter).config
    size = config["sample_size"]
    height, width = (size, size) if isinstance(size, int) else size
    return config["in_channels"], height, width


def _denoiser(painter: Any) -> Any:
    return painter.transformer if hasattr(painter, "transformer") else painter.unet
