"""Encoded bytes to an upright RGB picture, as an image viewer would show it; or the reason why not."""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

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
    """An upright RGB picture; `format` is what the bytes are ("JPEG", "PNG", "WEBP", ...)."""

    image: Image.Image
    format: str


def decode(data: bytes | None, max_pixels: int = MAX_PIXELS) -> Decoded | Rejected:
    """Decode, turn upright by EXIF, and bring any mode to RGB; transparency is laid on white.

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
        image_format = image.format or "unknown"
        image.load()
        return Decoded(to_rgb(ImageOps.exif_transpose(image)), image_format)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        return Rejected("image_too_large", str(error))
    except UnidentifiedImageError:
        return Rejected("image_unreadable", f"not an image: {len(data)} bytes starting {data[:4].hex()}")
    except MemoryError:
        raise
    except Exception as error:  # each format's decoder raises kinds of its own for bad bytes
        return Rejected("image_unreadable", f"{type(error).__name__}: {error}")


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
