"""Encoded bytes to an upright RGB picture, as an image viewer would show it; or the reason why not."""

from dataclasses import dataclass

from PIL import Image, UnidentifiedImageError

from schemas.pictures import load_picture, orientation, upright_rgb

# Where Pillow itself begins to warn: 9,459 squared, nine times Pick-a-Pic's largest side, 268 MB decoded.
MAX_PIXELS = 89_478_485
# A short side resized to 224 px makes the long one 22,400 at most. Beyond it are spacers and rulers, not pictures.
MAX_ASPECT = 100


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


class RefusedError(Exception):
    """What a header says is enough; `rejected` says why."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.rejected = Rejected(reason, detail)


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
    size_before_draft: tuple[int, int] | None = None

    def opened(image: Image.Image) -> None:
        nonlocal size_before_draft
        refuse(image, max_pixels)
        size = image.size
        if at_least_px is not None and image.draft(None, (at_least_px, at_least_px)):  # None for other formats
            size_before_draft = size

    try:
        image = load_picture(data, opened)
        refuse(image, max_pixels)  # once more: an ICO is of the size that its header says only if it is honest
        upright = upright_rgb(image)
        width, height = upright_size(image, size_before_draft) if size_before_draft else upright.size
        return Decoded(upright, image.format or "unknown", width, height)
    except RefusedError as refused:
        return refused.rejected
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        return Rejected("image_too_large", str(error))
    except UnidentifiedImageError:
        return Rejected("image_unreadable", f"not an image: {len(data)} bytes starting {data[:4].hex()}")
    except Exception as error:  # each format's decoder raises kinds of its own for bad bytes, MemoryError too
        return Rejected("image_unreadable", f"{type(error).__name__}: {error}")


def refuse(image: Image.Image, max_pixels: int = MAX_PIXELS) -> None:
    """Raises RefusedError for what is not worth decoding: too many pixels, too narrow, a program."""
    width, height = image.size
    if width * height > max_pixels:
        raise RefusedError("image_too_large", f"{width}x{height} px, more than {max_pixels} pixels")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise RefusedError("image_too_narrow", f"{width}x{height} px, one side more than {MAX_ASPECT} times the other")
    if image.format == "EPS":
        raise RefusedError("image_unreadable", "PostScript is a program, which is not run")


def upright_size(image: Image.Image, size: tuple[int, int]) -> tuple[int, int]:
    """(width, height) of a JPEG stored in `size`, once it is turned by its EXIF orientation."""
    return size[::-1] if orientation(image) >= 5 else size
