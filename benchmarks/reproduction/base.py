"""The base model: trained on perfect drawings, stopped early, and how it draws."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from benchmarks.demo_world.progress import Progress
from benchmarks.demo_world.scenes import random_scene
from benchmarks.reproduction.denoiser import TinyDenoiser, make_denoiser
from benchmarks.reproduction.pictures import LATENT_SCALE, Pictures, draw_scenes, embed_captions
from curate.storage.tables import atomic_path

STEPS, BATCH_PICTURES, SCENES = 1000, 64, 12_000
LEARNING_RATE = 2e-3
PROMPT_DROPOUT = 0.1

# Stable Diffusion's schedule, brought to no signal at its last step, where the velocity is still defined: so small
# a net learns what a whole picture shows only if that counts in the loss.
SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "clip_sample": False,
}


@dataclass(frozen=True)
class Base:
    """The frozen base model and its noise schedule."""

    denoiser: TinyDenoiser
    scheduler: DDPMScheduler


def make_scheduler() -> DDPMScheduler:
    """The schedule that training adds noise by."""
    return DDPMScheduler(**SCHEDULE)


def open_base(folder: Path, seed: int, left_out: Sequence[str], steps: int) -> Base:
    """The base in `folder`, trained when it is not there; captions of `left_out` are never shown to it."""
    path, denoiser = folder / "denoiser.safetensors", make_denoiser(seed)
    if not path.exists():
        train_base(denoiser, seed, left_out, steps)
        with atomic_path(path) as temporary:
            save_file({name: value.contiguous() for name, value in denoiser.state_dict().items()}, temporary)
    denoiser.load_state_dict(load_file(path))
    denoiser.requires_grad_(False).eval()
    return Base(denoiser, make_scheduler())


def train_base(denoiser: TinyDenoiser, seed: int, left_out: Sequence[str], steps: int) -> None:
    """AdamW at a rate that falls along a cosine; the loss is the plain squared error of the velocity."""
    rng, generator = np.random.default_rng((seed, 2)), torch.Generator().manual_seed(seed)
    latents, embeds = scenes_as_tensors(rng, set(left_out), min(SCENES, steps * BATCH_PICTURES))
    scheduler: Any = make_scheduler()
    optimizer = torch.optim.AdamW(denoiser.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99))
    progress = Progress("base", steps)
    for step in range(steps):
        rate = min(1.0, (step + 1) / 100) * max(0.02, 0.5 + 0.5 * np.cos(np.pi * step / steps))
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * rate
        rows = torch.randint(len(latents), (BATCH_PICTURES,), generator=generator)
        kept = torch.rand(BATCH_PICTURES, 1, 1, generator=generator) >= PROMPT_DROPOUT
        noise = torch.randn(BATCH_PICTURES, *latents.shape[1:], generator=generator)
        timesteps = torch.randint(SCHEDULE["num_train_timesteps"], (BATCH_PICTURES,), generator=generator)
        noisy = scheduler.add_noise(latents[rows], noise, timesteps)
        target = scheduler.get_velocity(latents[rows], noise, timesteps)
        loss = F.mse_loss(denoiser(noisy, timesteps, embeds[rows] * kept)[0], target)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(denoiser.parameters(), 1.0)
        optimizer.step()
        progress.step(loss=loss.item())


def scenes_as_tensors(rng: np.random.Generator, left_out: set[str], count: int) -> tuple[Tensor, Tensor]:
    """Latents of one drawing of each of about `count` random scenes, (n, 3, 16, 16), and their captions' tokens."""
    scenes = [scene for scene in (random_scene(rng) for _ in range(count)) if scene.caption not in left_out]
    embeds = embed_captions([scene.caption for scene in scenes])
    return to_latents(draw_scenes(rng, scenes)), torch.from_numpy(embeds)


def to_latents(pictures: Pictures) -> Float[Tensor, "picture 3 16 16"]:
    """Pictures as the denoiser sees them: RGB moved and scaled, nothing else."""
    return torch.from_numpy((pictures - np.float32(0.5)) * LATENT_SCALE).permute(0, 3, 1, 2).contiguous()


@torch.no_grad()
def draw(
    denoiser: torch.nn.Module,
    embeds: Float[Tensor, "picture token width"],
    noise: Float[Tensor, "picture 3 16 16"],
    *,
    steps: int,
    guidance: float = 1.0,
) -> Pictures:
    """Pictures in [0, 1] by DDIM from the given noise; guidance 1 looks at the prompt alone."""
    scheduler: Any = DDIMScheduler(**SCHEDULE, timestep_spacing="trailing", set_alpha_to_one=True)
    scheduler.set_timesteps(steps)
    latents, empty = noise, torch.zeros_like(embeds)
    for timestep in scheduler.timesteps:
        told = timestep.expand(len(latents))
        velocity = denoiser(latents, told, embeds)[0]
        if guidance != 1:
            without = denoiser(latents, told, empty)[0]
            velocity = without + guidance * (velocity - without)
        latents = scheduler.step(velocity, timestep, latents).prev_sample
    return (latents / LATENT_SCALE + 0.5).clamp(0, 1).permute(0, 2, 3, 1).contiguous().numpy()
