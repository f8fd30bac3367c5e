"""Bytes become the upright RGB picture that a viewer shows, or a reason; nothing raises."""

import io
import random
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from curate.sources.images import MAX_PIXELS, Decoded, Rejected, decode
from schemas.reasons import IMAGE_REASONS
from tests.curate.builders import picture_bytes

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
EXIF_ORIENTATION = 0x0112


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def pixels(data: bytes) -> np.ndarray:
    """(height, width, 3) of what `decode` gives, checked to be RGB."""
    decoded = decode(data)
    assert isinstance(decoded, Decoded), decoded
    assert decoded.image.mode == "RGB"
    return np.asarray(decoded.image)


def gray(*values: int, dtype: type = np.uint8) -> Image.Image:
    """One row of gray pixels."""
    return Image.fromarray(np.array([values], dtype=dtype))


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few dozen bytes that claims width x height pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_format_is_what_the_bytes_are(form: str) -> None:
    decoded = decode(picture_bytes(1, (9, 7), form))
    assert isinstance(decoded, Decoded)
    assert (decoded.format, decoded.image.size) == (form, (9, 7))


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF"])
def test_lossless_pixels_are_untouched(form: str) -> None:
    picture = Image.open(io.BytesIO(picture_bytes(2, (5, 3), "PNG")))
    assert np.array_equal(pixels(encoded(picture, form)), np.asarray(picture))


def test_lossless_webp() -> None:
    picture = Image.open(io.BytesIO(picture_bytes(2, (5, 3), "PNG")))
    assert np.array_equal(pixels(encoded(picture, "WEBP", lossless=True)), np.asarray(picture))


def test_one_pixel() -> None:
    assert pixels(encoded(Image.new("RGB", (1, 1), RED))).tolist() == [[list(RED)]]


@pytest.mark.parametrize(
    ("data", "reason", "detail"),
    [
        (None, "image_missing", "the row has no bytes, or its path cannot be read"),
        (b"", "image_empty", "0 bytes"),
        (b"<html>not found", "image_unreadable", "not an image: 15 bytes starting 3c68746d"),
        (b"\0" * 40, "image_unreadable", "not an image: 40 bytes starting 00000000"),
        (b"\xff\xd8\xff", "image_unreadable", "not an image: 3 bytes starting ffd8ff"),
    ],
)
def test_no_picture_at_all(data: bytes | None, reason: str, detail: str) -> None:
    assert decode(data) == Rejected(reason, detail)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_truncated(form: str, share: float) -> None:
    whole = encoded(Image.effect_noise((64, 64), 90).convert("RGB"), form)
    rejected = decode(whole[: int(share * len(whole))])
    assert isinstance(rejected, Rejected)
    assert rejected.reason == "image_unreadable"
    assert rejected.detail


@pytest.mark.parametrize("size", [(9_460, 9_460), (13_400, 13_400), (60_000, 60_000), (2**31 - 1, 1)])
def test_decompression_bomb_is_refused_by_its_header(size: tuple[int, int]) -> None:
    rejected = decode(bomb(*size))
    assert isinstance(rejected, Rejected)
    assert rejected.reason == "image_too_large"
    assert size[0] * size[1] > MAX_PIXELS


@pytest.mark.parametrize("size", [(1, 600), (600, 1), (60_000, 1), (1, 40_000_000), (1_000, 9), (10, 1_001)])
def test_a_spacer_is_set_aside_by_its_header(size: tuple[int, int]) -> None:
    detail = f"{size[0]}x{size[1]} px, one side more than 100 times the other"
    assert decode(bomb(*size)) == Rejected("image_too_narrow", detail)


def test_the_narrowest_picture_that_is_one() -> None:
    assert isinstance(decode(picture_bytes(1, (1_000, 10), "PNG")), Decoded)
    assert isinstance(decode(picture_bytes(1, (100, 1), "PNG")), Decoded)


def test_postscript_is_not_run() -> None:
    data = encoded(Image.new("RGB", (4, 4), RED), "EPS")
    assert decode(data) == Rejected("image_unreadable", "PostScript is a program, which is not run")


def test_bytes_for_which_there_is_no_memory_are_unreadable(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(image: Image.Image) -> None:
        raise MemoryError("no room for a row")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", full)
    assert decode(picture_bytes(1, (9, 7), "PNG")) == Rejected("image_unreadable", "MemoryError: no room for a row")


def test_pixel_limit_is_inclusive(monkeypatch: pytest.MonkeyPatch) -> None:
    data = picture_bytes(1, (10, 10), "PNG")
    assert isinstance(decode(data, max_pixels=100), Decoded)

    def never(image: Image.Image) -> None:
        raise AssertionError("pixels were decoded")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", never)
    assert decode(data, max_pixels=99) == Rejected("image_too_large", "10x10 px, more than 99 pixels")


def test_grayscale_repeats_its_channel() -> None:
    assert pixels(encoded(gray(0, 100, 255))).tolist() == [[[0, 0, 0], [100, 100, 100], [255, 255, 255]]]


def test_sixteen_bit_gray_is_scaled_not_clipped() -> None:
    data = encoded(gray(0, 257, 0x8080, 65535, dtype=np.uint16))
    assert Image.open(io.BytesIO(data)).mode == "I;16"
    assert pixels(data)[0, :, 0].tolist() == [0, 1, 128, 255]


def test_one_bit() -> None:
    assert pixels(encoded(gray(0, 255).convert("1")))[0].tolist() == [[0, 0, 0], [255, 255, 255]]


def test_cmyk_jpeg_has_its_colours() -> None:
    """Four large patches, so that JPEG's losses stay small: white, cyan, magenta and black ink."""
    inks = np.array([[[0, 0, 0, 0], [255, 0, 0, 0], [0, 255, 0, 0], [0, 0, 0, 255]]], dtype=np.uint8)
    picture = Image.fromarray(inks.repeat(16, 0).repeat(16, 1), "CMYK")
    found = pixels(encoded(picture, "JPEG", quality=100))[8, 8::16].astype(int)
    assert np.abs(found - [[255, 255, 255], [0, 255, 255], [255, 0, 255], [0, 0, 0]]).max() <= 4


def test_alpha_is_laid_on_white() -> None:
    values = np.array([[[255, 0, 0, 255], [255, 0, 0, 0], [0, 0, 0, 128]]], dtype=np.uint8)
    assert pixels(encoded(Image.fromarray(values))).tolist() == [[[255, 0, 0], [255, 255, 255], [127, 127, 127]]]


def test_gray_with_alpha_is_laid_on_white() -> None:
    values = np.array([[[10, 255], [10, 0]]], dtype=np.uint8)
    data = encoded(Image.fromarray(values))
    assert Image.open(io.BytesIO(data)).mode == "LA"
    assert pixels(data).tolist() == [[[10, 10, 10], [255, 255, 255]]]


@pytest.mark.parametrize("transparency", [1, b"\xff\x00\xff"])
def test_palette_with_a_transparent_entry(transparency: int | bytes) -> None:
    picture = Image.new("P", (3, 1))
    picture.putpalette([*RED, *GREEN, *BLUE])
    for index in range(3):
        picture.putpixel((index, 0), index)
    data = encoded(picture, "PNG", transparency=transparency)
    assert pixels(data).tolist() == [[list(RED), list(WHITE), list(BLUE)]]


def test_rgb_png_with_a_transparent_colour() -> None:
    picture = Image.new("RGB", (2, 1), RED)
    picture.putpixel((1, 0), BLUE)
    assert pixels(encoded(picture, "PNG", transparency=BLUE)).tolist() == [[list(RED), list(WHITE)]]


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, GREEN)]
    for form in ("GIF", "WEBP", "PNG"):
        data = encoded(frames[0], form, save_all=True, append_images=frames[1:])
        assert np.abs(pixels(data).astype(int) - RED).max() <= 3, form


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_exif_rotation_is_undone(orientation: int, form: str) -> None:
    """The stored picture is turned; the decoded one is as the camera saw it, pixel for pixel."""
    upright = Image.fromarray(np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3))
    turns = Image.Transpose
    undo = [
        None, turns.FLIP_LEFT_RIGHT, turns.ROTATE_180, turns.FLIP_TOP_BOTTOM,
        turns.TRANSPOSE, turns.ROTATE_90, turns.TRANSVERSE, turns.ROTATE_270,
    ][orientation - 1]  # fmt: skip
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    stored = upright if undo is None else upright.transpose(undo)
    assert np.array_equal(pixels(encoded(stored, form, exif=exif)), np.asarray(upright))


def test_exif_rotated_jpeg_is_upright() -> None:
    """Orientation 6: the camera was held sideways, so the stored left column is the top row."""
    stored = Image.new("RGB", (48, 32), BLUE)
    stored.paste(RED, (0, 0, 24, 32))
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    found = pixels(encoded(stored, "JPEG", exif=exif, quality=100))
    assert found.shape == (48, 32, 3)
    assert np.abs(found[4, 16].astype(int) - RED).max() <= 3
    assert np.abs(found[44, 16].astype(int) - BLUE).max() <= 3


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's remarks on broken EXIF and TIFF directories
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "TGA", "ICO", "AVIF", "JPEG2000"])
def test_damaged_bytes_never_raise(form: str) -> None:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    options = {"exif": exif} if form in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF") else {}
    whole = encoded(Image.open(io.BytesIO(picture_bytes(3, (24, 20), "PNG"))), form, **options)
    draw = random.Random(form)
    for _ in range(120):
        damaged = bytearray(whole)
        for _ in range(draw.choice((1, 3, 10))):
            damaged[draw.randrange(min(len(damaged), 400))] = draw.randrange(256)
        result = decode(bytes(damaged[: draw.choice((len(damaged), draw.randrange(len(damaged))))]))
        assert isinstance(result, Decoded) or result.reason in IMAGE_REASONS


@pytest.mark.parametrize("turn", range(1, 9))
def test_a_scaled_jpeg_is_upright_and_its_full_size_is_known(turn: int) -> None:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = turn
    data = encoded(Image.open(io.BytesIO(picture_bytes(3, (303, 200), "PNG"))), "JPEG", exif=exif, quality=95)
    whole, scaled = decode(data), decode(data, at_least_px=64)
    assert isinstance(whole, Decoded)
    assert isinstance(scaled, Decoded)
    assert (scaled.width, scaled.height) == (whole.width, whole.height) == whole.image.size
    assert sorted(scaled.image.size) == [100, 152]
    near = np.asarray(whole.image.resize(scaled.image.size, Image.Resampling.BOX), dtype=int)
    assert np.abs(near - np.asarray(scaled.image, dtype=int)).max() < 16


@pytest.mark.parametrize(
    ("size", "at_least_px", "decoded"),
    [((1024, 1024), 224, 256), ((512, 512), 224, 256), ((448, 448), 224, 224), ((447, 447), 224, 447),
     ((2048, 2048), 224, 256), ((64, 64), 224, 64)],
)  # fmt: skip
def test_the_smallest_scale_that_is_large_enough(size: tuple[int, int], at_least_px: int, decoded: int) -> None:
    found = decode(picture_bytes(1, size), at_least_px=at_least_px)
    assert isinstance(found, Decoded)
    assert found.image.size == (decoded, decoded)
    assert (found.width, found.height) == size


@pytest.mark.parametrize("form", ["PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_other_formats_are_decoded_whole(form: str) -> None:
    found = decode(picture_bytes(1, (512, 512), form), at_least_px=64)
    assert isinstance(found, Decoded)
    assert found.image.size == (found.width, found.height) == (512, 512)


def test_a_broken_jpeg_has_the_same_reason_at_any_scale() -> None:
    cut = encoded(Image.effect_noise((512, 512), 90).convert("RGB"), "JPEG")[:9_000]
    whole, scaled = decode(cut), decode(cut, at_least_px=64)
    assert isinstance(whole, Rejected)
    assert isinstance(scaled, Rejected)
    assert scaled.reason == whole.reason == "image_unreadable"
