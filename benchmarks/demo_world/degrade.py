"""Ways to spoil a picture, so that judges learn what a bad drawing looks like."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from benchmarks.demo_world.scenes import Picture, random_scene, render

BLUR_RADIUS_MAX_PX = 4.0
NOISE_MAX = 0.25


def degrade(rng: np.random.Generator, picture: Picture) -> Picture:
    """The picture blurred, speckled, mixed with another scene, or smeared in patches, by a random amount."""
    strength = float(rng.uniform(0.15, 1.0))
    spoil = (blur, speckle, ghost, smear)[int(rng.integers(4))]
    return np.clip(spoil(rng, picture, strength), 0, 1).astype(np.float32)


def blur(rng: np.random.Generator, picture: Picture, strength: float) -> Picture:
    """Gaussian blur of up to BLUR_RADIUS_MAX_PX."""
    image = to_image(picture).filter(ImageFilter.GaussianBlur(BLUR_RADIUS_MAX_PX * strength))
    return from_image(image)


def speckle(rng: np.random.Generator, picture: Picture, strength: float) -> Picture:
    """Coloured noise in blocks of 4 px, the grain that an unfinished latent leaves."""
    size = picture.shape[0] // 4
    noise = rng.normal(0, NOISE_MAX * strength, (size, size, 3)).astype(np.float32)
    return picture + noise.repeat(4, axis=0).repeat(4, axis=1)


def ghost(rng: np.random.Generator, picture: Picture, strength: float) -> Picture:
    """Another scene shining through."""
    return picture + 0.5 * strength * (render(random_scene(rng), rng) - picture)


def smear(rng: np.random.Generator, picture: Picture, strength: float) -> Picture:
    """Every pixel fetched from a few pixels away, along a smooth random field."""
    size = picture.shape[0]
    field = rng.normal(0, 4.0 * strength, (2, 5, 5)).astype(np.float32)
    shift_x, shift_y = (
        np.asarray(Image.fromarray(plane).resize((size, size), Image.Resampling.BICUBIC)) for plane in field
    )
    rows, columns = np.mgrid[0:size, 0:size]
    source_rows: NDArray[np.int64] = np.clip(np.rint(rows + shift_y), 0, size - 1).astype(np.int64)
    source_columns: NDArray[np.int64] = np.clip(np.rint(columns + shift_x), 0, size - 1).astype(np.int64)
    return picture[source_rows, source_columns]


def to_image(picture: Picture) -> Image.Image:
    """RGB in [0, 1] to an 8-bit PIL image."""
    return Image.fromarray(np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8))


def from_image(image: Image.Image) -> Picture:
    """Any PIL image to RGB in [0, 1]."""
    return np.asarray(image.convert("RGB"), dtype=np.float32) / np.float32(255)
