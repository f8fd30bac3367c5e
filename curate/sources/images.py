"""Encoded bytes to an upright RGB picture, as an image viewer would show it; or the reason why not."""

import io
from dataclasses import dataclass

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

# Where Pillow itself begins to warn: 9,459 squared, nine times Pick-a-Pic's largest side, 268 MB decoded.
MAX_PIXELS = 89_478_485
WHITE = (255, 255, 255)


@dataclass(frozen=True)
class Rejected:
    """Why bytes are not a picture: a word of schemas.reasons.IMAGE_REASONS, and the detail."""

    reason: str
    detail: str


@dataclass(frozen=True)
class Decoded:
    """An upright RGB picture; `format` is what the bytes are ("JPEG", "PNG", "WEBP", ...).

    width, height: of the upright picture in full; `image` is smaller where it was decoded at a reduced scale.
    """

    image: Image.Image
    format: str
    width: int
    height: int


def decode(data: bytes | None, max_pixels: int = MAX_PIXELS, at_least_px: int | None = None) -> Decoded | Rejected:
    """Decode, turn upright by EXIF, and bring any mode to RGB; transparency is laid on white.

    at_least_px: a JPEG is decoded at 1/2, 1/4 or 1/8 of its size where both sides stay at least this long: its
    decoder then skips the high frequencies (Pillow's `draft`), which is faster and gives slightly other pixels.
    Never raises for bad bytes: they come back as Rejected.
    """
    if data is None:
        return Rejected("image_missing", "the row has no bytes, or its path cannot be read")
    if not data:
        return Rejected("image_empty", "0 bytes")
    try:
        image = Image.open(io.BytesIO(data))  # reads the header only; no pixel is decoded before the check below
        if image.width * image.height > max_pixels:
            return Rejected("image_too_large", f"{image.width}x{image.height} px, more than {max_pixels} pixels")
        image_format, full_size = image.format or "unknown", image.size
        if at_least_px is not None:
            image.draft(None, (at_least_px, at_least_px))  # does nothing for other formats
        scaled = image.size != full_size
        image.load()
        upright = to_rgb(ImageOps.exif_transpose(image))
        width, height = upright_size(image, full_size) if scaled else upright.size
        return Decoded(upright, image_format, width, height)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        return Rejected("image_too_large", str(error))
    except UnidentifiedImageError:
        return Rejected("image_unreadable", f"not an image: {len(data)} bytes starting {data[:4].hex()}")
    except MemoryError:
        raise
    except Exception as error:  # each format's decoder raises kinds of its own for bad bytes
        return Rejected("image_unreadable", f"{type(error).__name__}: {error}")


def orientation(image: Image.Image) -> int:
    """1 to 8, EXIF's: how a JPEG is to be turned or mirrored; 5 to 8 lie on their side."""
    stated = image.getexif().get(ExifTags.Base.Orientation, 1)
    return stated if stated in range(1, 9) else 1


def upright_size(image: Image.Image, size: tuple[int, int]) -> tuple[int, int]:
    """(width, height) of a JPEG stored in `size`, once it is turned by its EXIF orientation."""
    return size[::-1] if orientation(image) >= 5 else size


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow mode as RGB: 16-bit scaled to 8, palettes resolved, alpha laid on white."""
    if image.mode.startswith(("I", "F")):
        return _from_deep_gray(image)
    if image.has_transparency_data:
        layered = Image.new("RGBA", image.size, (*WHITE, 255))
        layered.alpha_composite(image.convert("RGBA"))
        return layered.convert("RGB")
    return image.convert("RGB")


def _from_deep_gray(image: Image.Image) -> Image.Image:
    """16-bit gray uses 0..65535; Pillow's own conversion would clip it at 255."""
    values = np.asarray(image, dtype=np.float64)
    eight_bit = np.clip(np.rint(values / 257.0), 0, 255).astype(np.uint8)
    return Image.fromarray(eight_bit).convert("RGB")
