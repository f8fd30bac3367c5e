import io

import numpy as np
import pytest
import torch
from PIL import Image

from train.data.images import centre_crop, decode


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "L", "LA", "P", "RGBA", "1", "CMYK"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    image = Image.new("RGB", (4, 4), (255, 0, 0)).convert(mode)
    decoded = decode(encoded(image, "JPEG" if mode == "CMYK" else "PNG"))
    assert (decoded.mode, decoded.size) == ("RGB", (4, 4))


def test_transparency_lies_over_white() -> None:
    assert decode(encoded(Image.new("RGBA", (2, 2), (255, 0, 0, 0)))).getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    image = Image.fromarray(np.full((2, 2), 128 << 8, np.uint16))
    assert decode(encoded(image)).getpixel((0, 0)) == (128, 128, 128)


def test_exif_rotation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees to view
    assert decode(encoded(Image.new("RGB", (8, 4)), "JPEG", exif=exif)).size == (4, 8)


def test_the_middle_square_and_its_time_ids() -> None:
    pixels = np.zeros((32, 64, 3), np.uint8)
    pixels[:, 16:48] = 255
    cut = centre_crop(Image.fromarray(pixels), 32, 32)
    assert cut.pixels.shape == (3, 32, 32)
    assert torch.equal(cut.pixels, torch.ones(3, 32, 32))
    assert cut.time_ids == (32, 64, 0, 16, 32, 32)


@pytest.mark.parametrize("size", [(64, 32), (32, 64), (33, 100), (7, 9), (512, 512)])
def test_any_size_gives_a_square_in_range(size: tuple[int, int]) -> None:
    cut = centre_crop(Image.new("RGB", size, (255, 0, 128)), 32, 32)
    assert cut.pixels.shape == (3, 32, 32)
    assert cut.pixels.abs().max() <= 1


@pytest.mark.parametrize("size", [(64, 32), (32, 64), (33, 100)])
def test_any_size_covers_a_rectangle(size: tuple[int, int]) -> None:
    cut = centre_crop(Image.new("RGB", size, (255, 0, 128)), 16, 48)
    assert cut.pixels.shape == (3, 16, 48)
    assert cut.time_ids[4:] == (16, 48)
