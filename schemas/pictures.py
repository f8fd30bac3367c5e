"""What encoded bytes are as a picture: one rule for what is scored, shown, exported and trained on.

A picture is what an image viewer shows: upright by its EXIF, RGB, transparency laid on white, of an animation the first
frame. Metadata that is broken or huge costs a picture nothing: its pixels do not depend on it.
"""

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import ExifTags, Image

WHITE = (255, 255, 255)
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what makes it upright."""
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_PIXELS = {b"IHDR", b"PLTE", b"IDAT", b"IEND"}
PNG_LOOKS = {b"tRNS", b"eXIf"}
"""What changes a PNG's look besides: its transparency, and how it is turned. With a wrong checksum it says nothing."""
STATES_ORIENTATION = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")
DEEP_RANGES = (1, 255, 65_535, 2**31 - 1)


def load_picture(data: bytes, opened: Callable[[Image.Image], None] = lambda image: None) -> Image.Image:
    """Pillow's picture of these bytes, decoded, in its own mode and not yet turned.

    opened: called once only the header is read; what it raises comes out. A PNG that Pillow refuses is tried again
    without the chunks that its pixels do not need: more than 1 MB of text, a wrong checksum, a cut profile.

    Raises: whatever Pillow's decoders raise for bad bytes.
    """
    try:
        return _loaded(data, opened)
    except Exception:
        needed = _without_metadata(data)
        if len(needed) == len(data):
            raise
    return _loaded(needed, opened)


def upright_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow mode as RGB, turned by its EXIF orientation, which it no longer states."""
    turn = TURNS.get(orientation(image))
    plain = image.mode == "RGB" and not image.has_transparency_data
    upright = image.copy() if plain else to_rgb(image)
    for key in STATES_ORIENTATION:
        upright.info.pop(key, None)
    return upright if turn is None else upright.transpose(turn)


def orientation(image: Image.Image) -> int:
    """1 to 8, EXIF's: how a picture is to be turned or mirrored; 5 to 8 lie on their side. 1 where EXIF is broken."""
    try:
        stated = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # viewers show a picture whose EXIF cannot be read, as it lies
        return 1
    return stated if stated in range(1, 9) else 1


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow mode as RGB: deep grays scaled to 8 bits, palettes resolved, alpha laid on white."""
    if image.mode.startswith(("I", "F")):
        return _from_deep_gray(image)
    if image.has_transparency_data:
        layered = Image.new("RGBA", image.size, (*WHITE, 255))
        layered.alpha_composite(image.convert("RGBA"))
        return layered.convert("RGB")
    return image.convert("RGB")


def _loaded(data: bytes, opened: Callable[[Image.Image], None]) -> Image.Image:
    image = Image.open(io.BytesIO(data))  # reads the header only
    opened(image)
    image.load()
    return image


def _without_metadata(data: bytes) -> bytes:
    """A PNG's chunks that its pixels need; anything else as it is."""
    if not data.startswith(PNG_SIGNATURE):
        return data
    kept, at = [PNG_SIGNATURE], len(PNG_SIGNATURE)
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        sound = zlib.crc32(data[at + 4 : end - 4]) == int.from_bytes(data[end - 4 : end])
        if kind in PNG_PIXELS or (kind in PNG_LOOKS and sound):
            kept.append(data[at:end])
        at = end
    return b"".join(kept)


def _from_deep_gray(image: Image.Image) -> Image.Image:
    """16 bits are 0..65535. Of 32 bits and of floats no format states the range: the smallest usual one that holds all.

    Pillow's own conversion would clip them all at 255.
    """
    values = np.asarray(image, dtype=np.float64)
    largest = values[np.isfinite(values)].max(initial=0)
    ranges = (65_535,) if image.mode.startswith("I;16") else DEEP_RANGES
    white = next((one for one in ranges if largest <= one), ranges[-1])
    eight_bit = np.clip(np.rint(np.nan_to_num(values * (255 / white), nan=0)), 0, 255)
    return Image.fromarray(eight_bit.astype(np.uint8)).convert("RGB")
