"""Micro-batches of latents and prompt embeddings, and where they come from: a cache, or the encoders at work.

What is kept or computed of an image is the mean and standard deviation of its posterior, so every step draws
from it anew. A mirrored image has a posterior of its own, because a VAE does not commute with mirroring.
"""

import hashlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from schemas.shards import META
from train.data.images import Crop, centre_crop, decode
from train.data.pairs import EXPORT_AGAIN, PairSet
from train.data.random_draws import Draw
from train.errors import ModelError, ShardError, shortened
from train.model.families import Conditioning, DiffusionModel, Latents, encode_prompts
from train.model.memory import AtOnce

MOST_AT_ONCE = 16  # pictures or prompts through an encoder
PX_AT_ONCE = 1024 * 1024  # of pictures together; SDXL's VAE takes 2.5 GiB for them
DECODE_THREADS = 4  # that read pictures for a VAE
ADVICE = (  # where an encoder's values are not finite
    "its weights are broken, or its numbers too large for float16, which the cache keeps; take another, or --no-cache"
    ' with run.mixed_precision = "bf16".'
)


@dataclass(frozen=True)
class Batch:
    """A micro-batch. Axis 0 of `latents` is the side: 0 preferred, 1 rejected."""

    latents: Float[Tensor, "2 pair channel height width"]
    noise: Float[Tensor, "pair channel height width"]
    timesteps: Int[Tensor, " pair"]
    conditioning: Conditioning  # of 2 * pair images: all preferred, then all rejected
    of_pairs: Mapping[str, Float[Tensor, " pair"]] = field(default_factory=dict)  # see `objectives.pair_loss`
    channels_last: bool = False

    def both_sides(self) -> tuple[Tensor, Tensor, Tensor]:
        """Latents, noise and timesteps of 2 * pair images; both images of a pair share the last two."""
        latents, noise = self.latents.flatten(0, 1), self.noise.repeat(2, 1, 1, 1)
        if self.channels_last:
            latents, noise = (one.contiguous(memory_format=torch.channels_last) for one in (latents, noise))
        return latents, noise, self.timesteps.repeat(2)

    def to(self, device: torch.device, *, channels_last: bool = False) -> "Batch":
        """On `device`, by copies that the host need not wait for."""
        moved = {name: _to_device(value, device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        conditioning = self.conditioning.mapped(lambda part: _to_device(part, device))
        of_pairs = {name: _to_device(values, device) for name, values in self.of_pairs.items()}
        return replace(self, **moved, conditioning=conditioning, of_pairs=of_pairs, channels_last=channels_last)

    def told_sizes(self, time_ids: tuple[int, int, int, int, int, int]) -> "Batch":
        """With `time_ids`, as `images.Crop` has them, for every picture."""
        of_all = torch.tensor([time_ids], dtype=torch.float32).expand(2 * len(self.timesteps), -1)
        return replace(self, conditioning=replace(self.conditioning, time_ids=of_all))


def _to_device(tensor: Tensor, device: torch.device) -> Tensor:
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()  # a copy from other memory would hold the host up
    return tensor.to(device, non_blocking=True)


@runtime_checkable
class LatentSource(Protocol):
    """Where the latents and embeddings of a batch come from."""

    def encoded(
        self, images: list[int], noise: Latents, flipped: list[bool], prompts: list[int]
    ) -> tuple[Latents, Conditioning]:
        """Draws from the (scaled) posteriors of images or of their mirror images, and the conditioning.

        One flag and one prompt for each image; the prompt after the last stands for the empty one.
        """
        ...


def pictures_at_once(height_px: int, width_px: int) -> int:
    """How many go through a VAE together at most."""
    return min(MOST_AT_ONCE, max(1, PX_AT_ONCE // (height_px * width_px)))


@dataclass(frozen=True)
class OnTheFly:
    """The encoders at work at every step, for `--no-cache`; the model must be on its device."""

    model: DiffusionModel
    pairs: PairSet
    resolution_px: int
    readers: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(DECODE_THREADS))

    @cached_property
    def at_once(self) -> AtOnce:
        """Of pictures through the VAE."""
        return AtOnce(pictures_at_once(self.resolution_px, self.resolution_px))

    def encoded(
        self, images: list[int], noise: Latents, flipped: list[bool], prompts: list[int]
    ) -> tuple[Latents, Conditioning]:
        crops = list(self.readers.map(lambda image: read_crop(self.pairs, image, self.resolution_px), images))
        views = [one.pixels.flip(-1) if mirrored else one.pixels for one, mirrored in zip(crops, flipped, strict=True)]
        pieces = self.at_once.run(len(views), lambda start, stop: self._posterior(views[start:stop]))
        moments = torch.cat(pieces)
        check_finite(self.pairs, images, moments)
        texts = [*self.pairs.prompts, ""]
        unique = list(dict.fromkeys(prompts))
        found = encode_prompts(self.model, [texts[prompt] for prompt in unique])
        check_finite_prompts([texts[prompt] for prompt in unique], found.prompt_embeds)
        rows = torch.tensor([unique.index(prompt) for prompt in prompts], device=found.prompt_embeds.device)
        conditioning = found.mapped(lambda part: part[rows].float() if part.is_floating_point() else part[rows])
        if self.model.family.has_time_ids:
            time_ids = torch.tensor([one.time_ids for one in crops], dtype=torch.float32, device=moments.device)
            conditioning = replace(conditioning, time_ids=time_ids)
        return moments[:, 0] + moments[:, 1] * noise.to(moments.device), conditioning

    def _posterior(self, pixels: list[Tensor]) -> Float[Tensor, "image 2 channel height width"]:
        return torch.stack(encode_posterior(self.model, torch.stack(pixels)), dim=1).float()


@torch.no_grad()
def encode_posterior(model: DiffusionModel, pixels: Float[Tensor, "image 3 px_h px_w"]) -> tuple[Latents, Latents]:
    """Mean and standard deviation of the scaled latents, computed in the VAE's own dtype."""
    return model.family.posterior(model.vae, pixels.to(model.vae.device, model.vae.dtype))


def check_finite(pairs: PairSet, images: list[int], moments: Float[Tensor, "image ..."]) -> None:
    """Raises: ModelError naming the first of `images` whose posterior is not finite."""
    if (lost := _first_not_finite(moments)) is not None:
        raise ModelError(
            f"The VAE gives values that are not finite for the image {pairs.images[images[lost]]}: {ADVICE}"
        )


def check_finite_prompts(prompts: list[str], states: Float[Tensor, "prompt ..."]) -> None:
    """Raises: ModelError naming the first of `prompts` whose embedding is not finite."""
    if (lost := _first_not_finite(states)) is not None:
        named = shortened(prompts[lost])
        raise ModelError(f"A text encoder gives values that are not finite for the prompt `{named}`: {ADVICE}")


def _first_not_finite(rows: Float[Tensor, "row ..."]) -> int | None:
    sound = rows.isfinite().flatten(1).all(dim=1).tolist()
    return None if all(sound) else sound.index(False)


def read_crop(pairs: PairSet, image: int, resolution_px: int) -> Crop:
    """The pixels that a model is trained on. Raises: ShardError naming an image that cannot be decoded or cut."""
    with _named(pairs, image):
        return centre_crop(read_image(pairs, image), *pairs.shape_px(image, resolution_px))


def read_image(pairs: PairSet, image: int) -> Image.Image:
    """A whole picture. Raises: ShardError naming it when it cannot be decoded."""
    location = pairs.images[image]
    with _named(pairs, image):
        data = location.read()
        if pairs.hashes and hashlib.sha256(data).hexdigest() != pairs.hashes[image]:
            raise ShardError(f"The image {location} is not the one that its sample's `{META}` names; {EXPORT_AGAIN}.")
        return decode(data)


@contextmanager
def _named(pairs: PairSet, image: int) -> Iterator[None]:
    try:
        yield
    except ShardError:
        raise
    except Exception as error:  # each format's decoder raises kinds of its own for bad bytes
        raise ShardError(
            f"The image {pairs.images[image]} cannot be decoded ({error}); drop it with `curate embed` and export"
            " again."
        ) from error


def assemble(
    source: LatentSource,
    pairs: PairSet,
    draws: list[Draw],
    of_pairs: Mapping[str, NDArray[np.float64]] | None = None,
) -> Batch:
    """The micro-batch that `draws` describe, in float32. of_pairs: numbers of every pair, by name."""
    chosen = [pairs.pairs[draw.pair] for draw in draws]
    empty = len(pairs.prompts)
    prompts = [empty if draw.prompt_dropped else pair.prompt for pair, draw in zip(chosen, draws, strict=True)]
    images = [pair.preferred for pair in chosen] + [pair.rejected for pair in chosen]
    noise = torch.from_numpy(np.stack([draw.posterior_noise[side] for side in (0, 1) for draw in draws]))
    latents, conditioning = source.encoded(images, noise, 2 * [draw.flipped for draw in draws], 2 * prompts)
    places = [draw.pair for draw in draws]
    return Batch(
        latents=latents.unflatten(0, (2, -1)),
        noise=torch.from_numpy(np.stack([draw.noise for draw in draws])),
        timesteps=torch.tensor([draw.timestep for draw in draws]),
        conditioning=conditioning,
        of_pairs={name: torch.from_numpy(values[places]).float() for name, values in (of_pairs or {}).items()},
    )
