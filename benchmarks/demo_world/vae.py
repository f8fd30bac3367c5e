"""The tiny autoencoder: 64 px pictures to (4, 16, 16) latents, layout of Stable Diffusion's."""

from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from benchmarks.demo_world.degrade import degrade
from benchmarks.demo_world.progress import Progress
from benchmarks.demo_world.scenes import IMAGE_SIZE_PX, random_scene, render

CROP_STEPS = 3000  # on quarters of pictures, a fourth of the cost: colours and edges are local matters
FULL_STEPS = 500  # on whole pictures, for which the group norms see the statistics of use
BATCH_PICTURES = 8
LEARNING_RATE = 2e-3
KL_WEIGHT = 2e-4  # against a mean squared error: a decoder that errs by about 0.05 a pixel
DEGRADED_SHARE = 0.25  # the pictures that it must encode later are often bad ones


def make_vae() -> Any:
    """An untrained autoencoder of 0.17 M parameters."""
    return AutoencoderKL(
        block_out_channels=(8, 16, 32),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=IMAGE_SIZE_PX,
    )


def train_vae(seed: int, crop_steps: int = CROP_STEPS, full_steps: int = FULL_STEPS) -> Any:
    """Train on drawings of random scenes and set `scaling_factor` so that latents have unit variance."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    vae = make_vae().train()
    optimizer = torch.optim.AdamW(vae.parameters(), lr=LEARNING_RATE, weight_decay=0.0, betas=(0.9, 0.99))
    steps = crop_steps + full_steps
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.05)
    progress = Progress("vae", steps)
    for step in range(steps):
        pictures = draw_batch(rng, BATCH_PICTURES)
        loss = vae_loss(vae, crop(rng, pictures) if step < crop_steps else pictures)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        progress.step(loss=loss.item())
    vae.eval()
    vae.register_to_config(scaling_factor=latent_scale(vae, draw_batch(rng, 256)))
    return vae


def vae_loss(vae: Any, pictures: Tensor) -> Tensor:
    """Squared plus a tenth of absolute error (for sharp edges), plus the KL to the unit Gaussian."""
    posterior = vae.encode(pictures).latent_dist
    error = vae.decode(posterior.sample()).sample - pictures
    kl = posterior.kl().mean() / posterior.mean[0].numel()
    return error.square().mean() + 0.1 * error.abs().mean() + KL_WEIGHT * kl


def crop(rng: np.random.Generator, pictures: Tensor) -> Tensor:
    """One random quarter of every picture, (b, 3, 32, 32)."""
    side_px = IMAGE_SIZE_PX // 2
    top, left = rng.integers(0, side_px + 1, 2)
    return pictures[:, :, top : top + side_px, left : left + side_px]


@torch.no_grad()
def latent_scale(vae: Any, pictures: Tensor) -> float:
    """What latents are multiplied by before diffusion: 1 / their standard deviation."""
    return round(1.0 / vae.encode(pictures).latent_dist.mean.std().item(), 5)


def draw_batch(rng: np.random.Generator, count: int) -> Tensor:
    """Random scenes, some of them spoilt, (count, 3, 64, 64) in [-1, 1]."""
    pictures = [render(random_scene(rng), rng) for _ in range(count)]
    spoilt = [degrade(rng, picture) if rng.random() < DEGRADED_SHARE else picture for picture in pictures]
    return to_tensor(spoilt)


def to_tensor(pictures: list[np.ndarray]) -> Tensor:
    """Pictures in [0, 1] as the autoencoder takes them, (b, 3, 64, 64) in [-1, 1]."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous() * 2 - 1
