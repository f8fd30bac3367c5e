"""One picture in both halves: what is scored is what is trained on, and metadata costs no picture its pixels."""

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from curate.sources.images import Decoded, decode as decode_for_scoring
from train.data.images import decode as decode_for_training

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (6, 9, 4), dtype=np.uint8)
DEEP = np.array([[0, 257, 0x8080, 65535]], np.uint16)
SIXTEEN_BITS = [0, 1, 128, 255]


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def noise(mode: str) -> Image.Image:
    return Image.fromarray(NOISE).convert("RGB").convert(mode)


def deep(values: np.ndarray) -> bytes:
    return encoded(Image.fromarray(values), "TIFF")


def animation(form: str) -> bytes:
    return encoded(noise("RGB"), form, save_all=True, append_images=[Image.new("RGB", (9, 6))])


def chunk(kind: bytes, body: bytes, checksum: int | None = None) -> bytes:
    stated = zlib.crc32(kind + body) if checksum is None else checksum
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", stated)


def with_chunk(png: bytes, more: bytes, before: bytes = b"IDAT") -> bytes:
    at = png.index(before) - 4
    return png[:at] + more + png[at:]


def with_exif(jpeg: bytes, orientation: int, extra: bytes = b"", order: bytes = b"II*\0") -> bytes:
    """A JPEG with an orientation and a further raw IFD entry."""
    entries = struct.pack("<HHIHH", 0x112, 3, 1, orientation, 0) + extra
    body = b"Exif\0\0" + order + struct.pack("<IH", 8, len(entries) // 12) + entries + struct.pack("<I", 0)
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]


def scored(data: bytes) -> Image.Image:
    found = decode_for_scoring(data)
    assert isinstance(found, Decoded), found
    return found.image


LONG_TEXT = b"workflow\0\0" + zlib.compress(b"x" * 2_000_000)
PNG, JPEG = encoded(noise("RGB")), encoded(noise("RGB"), "JPEG")
OUT_OF_RANGE = struct.pack("<HHIi", 0x100, 9, 1, -1)
TURNED = Image.Exif()
TURNED[0x0112] = 6

SAMPLES = {
    **{f"{mode} png": encoded(noise(mode)) for mode in ("1", "L", "LA", "P", "RGB", "RGBA")},
    **{f"{mode} tiff": encoded(noise(mode), "TIFF") for mode in ("1", "L", "RGB", "CMYK", "YCbCr")},
    "alpha": encoded(Image.fromarray(NOISE)),
    "alpha webp": encoded(Image.fromarray(NOISE), "WEBP", lossless=True),
    "palette with alpha": encoded(Image.fromarray(NOISE).quantize(), transparency=bytes(range(256))),
    "transparent colour": encoded(noise("RGB"), transparency=noise("RGB").getpixel((0, 0))),
    "16-bit png": encoded(Image.fromarray(DEEP)),
    "16-bit tiff": deep(DEEP),
    "16-bit tiff, big-endian": encoded(Image.fromarray(DEEP).convert("I;16B"), "TIFF"),
    "32-bit tiff": deep(DEEP.astype(np.int32)),
    "float tiff": deep((DEEP / 65535).astype(np.float32)),
    "turned jpeg": encoded(noise("RGB"), "JPEG", exif=TURNED),
    "turned 16-bit png": encoded(Image.fromarray(DEEP), exif=TURNED),
    "gray jpeg": encoded(noise("L"), "JPEG"),
    "cmyk jpeg": encoded(noise("CMYK"), "JPEG"),
    **{f"animated {form}": animation(form) for form in ("GIF", "WEBP", "PNG", "TIFF")},
    "much text": with_chunk(PNG, chunk(b"zTXt", LONG_TEXT)),
    "out of range tag": with_exif(JPEG, 6, OUT_OF_RANGE),
    "bmp": encoded(noise("RGB"), "BMP"),
    "jpeg 2000": encoded(noise("RGB"), "JPEG2000"),
    "avif": encoded(noise("RGB"), "AVIF"),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_scored_and_trained_on_is_one_picture(name: str) -> None:
    found, trained = scored(SAMPLES[name]), decode_for_training(SAMPLES[name])
    assert found.mode == trained.mode == "RGB"
    assert np.array_equal(np.asarray(found), np.asarray(trained))
    assert np.asarray(found).std() > 0


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (deep(DEEP), SIXTEEN_BITS),
        (deep(DEEP.astype(np.int32)), SIXTEEN_BITS),
        (deep((DEEP / 65535).astype(np.float32)), SIXTEEN_BITS),
        (deep(DEEP.astype(np.float32)), SIXTEEN_BITS),
        (deep(np.array([[0, 7, 255]], np.int32)), [0, 7, 255]),
        (deep(np.array([[0, 7.4, 255]], np.float32)), [0, 7, 255]),
        (deep(np.array([[0, 2**30, 2**31 - 1]], np.int32)), [0, 128, 255]),
        (deep(np.array([[-1, np.nan, 0.5, 1, np.inf]], np.float32)), [0, 0, 128, 255, 255]),
        (encoded(Image.fromarray(np.array([[0, 200]], np.uint16))), [0, 1]),
    ],
)
def test_deep_grays_keep_their_shades(data: bytes, expected: list[int]) -> None:
    assert np.asarray(scored(data))[0, :, 1].tolist() == expected


@pytest.mark.parametrize(
    "png",
    [
        with_chunk(PNG, chunk(b"zTXt", LONG_TEXT)),
        with_chunk(PNG, chunk(b"zTXt", LONG_TEXT), before=b"IEND"),
        with_chunk(PNG, chunk(b"iTXt", b"prompt\0\1\0\0\0" + zlib.compress(b"x" * 2_000_000))),
        with_chunk(PNG, chunk(b"iCCP", b"icc\0\0" + zlib.compress(b"x" * 2_000_000))),
        with_chunk(PNG, chunk(b"tEXt", b"prompt\0a cat", checksum=1)),
        with_chunk(PNG, chunk(b"gAMA", b"\0")),
        with_chunk(PNG, chunk(b"eXIf", b"MM\0*\0", checksum=1)),
        with_chunk(PNG, chunk(b"eXIf", b"no TIFF at all")),
    ],
)
def test_a_pngs_metadata_costs_it_nothing(png: bytes) -> None:
    assert np.array_equal(np.asarray(scored(png)), np.asarray(noise("RGB")))


def test_a_png_without_its_text_keeps_its_transparency_and_its_turn() -> None:
    png = encoded(Image.fromarray(NOISE).quantize(), transparency=bytes(range(256)), exif=TURNED)
    assert np.array_equal(np.asarray(scored(with_chunk(png, chunk(b"zTXt", LONG_TEXT)))), np.asarray(scored(png)))
    assert scored(png).size == (6, 9)


@pytest.mark.parametrize("cut", [40, -60, -30])
def test_a_png_that_lacks_pixels_stays_unreadable(cut: int) -> None:
    png = with_chunk(encoded(Image.effect_noise((64, 64), 90)), chunk(b"tEXt", b"prompt\0a cat"))
    with pytest.raises((OSError, SyntaxError)):
        decode_for_training(png[:cut])


def test_an_exif_that_cannot_be_written_again_turns_the_picture() -> None:
    assert scored(with_exif(JPEG, 6, OUT_OF_RANGE)).size == (6, 9)
    turned, plain = np.asarray(scored(with_exif(JPEG, 6, OUT_OF_RANGE))), np.asarray(scored(JPEG))
    assert np.array_equal(turned, np.rot90(plain, -1))


def test_an_exif_that_cannot_be_read_leaves_the_picture_as_it_lies() -> None:
    assert np.array_equal(np.asarray(scored(with_exif(JPEG, 6, order=b"XX*\0"))), np.asarray(scored(JPEG)))


@pytest.mark.parametrize("decode", [scored, decode_for_training])
def test_an_upright_picture_does_not_say_that_it_is_to_be_turned(decode: Callable[[bytes], Image.Image]) -> None:
    for form in ("JPEG", "PNG", "WEBP", "TIFF"):
        assert decode(encoded(noise("RGB"), form, exif=TURNED)).getexif().get(0x0112, 1) == 1, form
