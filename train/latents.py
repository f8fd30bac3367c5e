"""The latent cache: each unique image and each unique prompt is encoded once.

What is kept of an image is the mean and standard deviation of its posterior, not one draw from it, so
every step draws anew. Of a mirrored image it is a posterior of its own, because a VAE does not commute
with mirroring. Every process encodes its share into one safetensors file and maps all of them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from train.draws import Draw
from train.errors import ShardError
from train.files import write_tensors
from train.images import Square, decode, square
from train.models import Conditioning, DiffusionModel, encode_prompts
from train.pairs import ImageLocation, PairSet

ENCODE_BATCH = 16
STORED = torch.float16  # posterior and embeddings; half of float32's disk, error 2^-11 of the value
Progress = Callable[[int, int], None]  # done, total
Item = TypeVar("Item")


@dataclass(frozen=True)
class Batch:
    """A micro-batch. Axis 0 of `latents` is the side: 0 preferred, 1 rejected."""

    latents: Float[Tensor, "2 pair channel height width"]
    noise: Float[Tensor, "pair channel height width"]
    timesteps: Int[Tensor, " pair"]
    conditioning: Conditioning  # of 2 * pair images: all preferred, then all rejected

    def both_sides(self) -> tuple[Tensor, Tensor, Tensor]:
        """Latents, noise and timesteps of 2 * pair images; both images of a pair share the last two."""
        return self.latents.flatten(0, 1), self.noise.repeat(2, 1, 1, 1), self.timesteps.repeat(2)


class LatentCache:
    """Read access to what `build_cache` wrote; image i lies in part i mod parts, row i div parts."""

    def __init__(self, folder: Path, parts: int) -> None:
        self._parts = [load_file(_part(folder, rank, parts)) for rank in range(parts)]

    def _row(self, name: str, index: int) -> Tensor:
        return self._parts[index % len(self._parts)][name][index // len(self._parts)]

    def latents(
        self, image: int, noise: Float[Tensor, "channel height width"], *, flipped: bool
    ) -> Float[Tensor, "channel height width"]:
        """A draw from the (scaled) posterior of an image, or of its mirror image."""
        mean, std = self._row("mean", image)[int(flipped)], self._row("std", image)[int(flipped)]
        return mean.float() + std.float() * noise

    def conditioning(self, prompts: list[int], images: list[int]) -> Conditioning:
        """Of as many images as prompts; the prompt after the last stands for the empty one."""
        embeds = torch.stack([self._row("prompt_embeds", prompt) for prompt in prompts])
        if "pooled_embeds" not in self._parts[0]:
            return Conditioning(embeds)
        pooled = torch.stack([self._row("pooled_embeds", prompt) for prompt in prompts])
        return Conditioning(embeds, pooled, torch.stack([self._row("time_ids", image) for image in images]))


def build_cache(
    folder: Path,
    model: DiffusionModel,
    pairs: PairSet,
    *,
    resolution_px: int,
    flips: bool,
    rank: int,
    parts: int,
    progress: Progress,
) -> None:
    """Write this process's share, unless it is there. The model must be on its device.

    Raises: ShardError naming an image that cannot be decoded; StorageError.
    """
    path = _part(folder, rank, parts)
    if path.exists():
        return
    tensors = _encode_images(model, pairs.images[rank::parts], resolution_px, flips, progress)
    tensors |= _encode_texts(model, [*pairs.prompts, ""][rank::parts])
    write_tensors(path, tensors)


def _part(folder: Path, rank: int, parts: int) -> Path:
    return folder / f"latents-{rank:05d}-of-{parts:05d}.safetensors"


def _encode_images(
    model: DiffusionModel, images: list[ImageLocation], resolution_px: int, flips: bool, progress: Progress
) -> dict[str, Tensor]:
    means, stds = [], []
    time_ids: list[tuple[int, ...]] = []
    for chunk in _chunks(images):
        squares = [_read_square(location, resolution_px) for location in chunk]
        pixels = torch.stack([one.pixels for one in squares])
        views = [pixels, pixels.flip(-1)] if flips else [pixels]
        moments = [encode_posterior(model, view) for view in views]
        means.append(torch.stack([mean for mean, _ in moments], dim=1).to("cpu", STORED))
        stds.append(torch.stack([std for _, std in moments], dim=1).to("cpu", STORED))
        time_ids.extend(one.time_ids for one in squares)
        progress(len(time_ids), len(images))
    if not images:
        return {}
    return {"mean": torch.cat(means), "std": torch.cat(stds), "time_ids": torch.tensor(time_ids).float()}


@torch.no_grad()
def encode_posterior(
    model: DiffusionModel, pixels: Float[Tensor, "image 3 px_h px_w"]
) -> tuple[Float[Tensor, "image channel height width"], Float[Tensor, "image channel height width"]]:
    """Mean and standard deviation of the scaled latents, computed in the VAE's own dtype."""
    posterior = model.vae.encode(pixels.to(model.vae.device, model.vae.dtype)).latent_dist
    scale = model.vae.config["scaling_factor"]
    return posterior.mean * scale, posterior.std * scale


def _encode_texts(model: DiffusionModel, prompts: list[str]) -> dict[str, Tensor]:
    encoded = [encode_prompts(model, chunk) for chunk in _chunks(prompts)]
    if not encoded:
        return {}
    tensors = {"prompt_embeds": torch.cat([one.prompt_embeds for one in encoded]).to("cpu", STORED)}
    pooled = [one.pooled_embeds for one in encoded if one.pooled_embeds is not None]
    return tensors | ({"pooled_embeds": torch.cat(pooled).to("cpu", STORED)} if pooled else {})


def _chunks(items: list[Item]) -> Iterator[list[Item]]:
    return (items[start : start + ENCODE_BATCH] for start in range(0, len(items), ENCODE_BATCH))


def _read_square(location: ImageLocation, resolution_px: int) -> Square:
    try:
        return square(decode(location.read()), resolution_px)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ShardError(
            f"The image {location} cannot be decoded ({error}); drop it with `curate embed` and export again."
        ) from error


def assemble(cache: LatentCache, pairs: PairSet, draws: list[Draw], device: torch.device) -> Batch:
    """The micro-batch that `draws` describe, in float32."""
    chosen = [pairs.pairs[draw.pair] for draw in draws]
    sides = [[pair.preferred for pair in chosen], [pair.rejected for pair in chosen]]
    latents = [
        torch.stack(
            [
                cache.latents(image, torch.from_numpy(draw.posterior_noise[side]), flipped=draw.flipped)
                for image, draw in zip(images, draws, strict=True)
            ]
        )
        for side, images in enumerate(sides)
    ]
    empty = len(pairs.prompts)
    prompts = [empty if draw.prompt_dropped else pair.prompt for pair, draw in zip(chosen, draws, strict=True)]
    return Batch(
        latents=torch.stack(latents).to(device),
        noise=torch.stack([torch.from_numpy(draw.noise) for draw in draws]).to(device),
        timesteps=torch.tensor([draw.timestep for draw in draws], device=device),
        conditioning=cache.conditioning(2 * prompts, sides[0] + sides[1]).to(device, torch.float32),
    )
