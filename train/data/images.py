"""Encoded bytes to the pixels that a model is trained on."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from schemas.pictures import load_picture, upright_rgb


class Crop(NamedTuple):
    """A picture as the VAE takes it, and how it was cut, as SDXL wants to be told."""

    pixels: Float[Tensor, "3 height width"]  # in [-1, 1]
    time_ids: tuple[int, int, int, int, int, int]  # original h, w; crop top, left; target h, w (all px)


def decode(data: bytes) -> Image.Image:
    """RGB, upright, transparency laid over white, as it was scored. Raises: whatever Pillow raises for bad bytes."""
    return upright_rgb(load_picture(data))


def centre_crop(image: Image.Image, height_px: int, width_px: int) -> Crop:
    """The middle of `image`, scaled so that it just covers `height_px` x `width_px`.

    The cut depends on the image's size alone, so two images of one size are cut alike.
    """
    scale = max(width_px / image.width, height_px / image.height)
    width, height = max(width_px, round(image.width * scale)), max(height_px, round(image.height * scale))
    left, top = (width - width_px) // 2, (height - height_px) // 2
    resized = image.resize((width, height), Image.Resampling.LANCZOS) if scale != 1 else image
    cut = resized.crop((left, top, left + width_px, top + height_px))
    pixels = torch.from_numpy(np.array(cut, dtype=np.float32)).permute(2, 0, 1) / 127.5 - 1
    return Crop(pixels, (image.height, image.width, top, left, height_px, width_px))
