"""Images made smaller or encoded anew on their way into the shards, only where that was asked for."""

import io
from dataclasses import dataclass
from typing import Any

import PIL
from PIL import Image

from curate.errors import SourceError, UsageError, nearest
from curate.sources.images import Rejected, decode

# What Pillow is told beside the quality. Full chroma: pictures are read to train on, not to look at.
_SETTINGS: dict[str, dict[str, Any]] = {
    "JPEG": {"subsampling": "4:4:4", "optimize": True},
    "WEBP": {"method": 4},
    "PNG": {"optimize": False},
}
DEFAULT_QUALITY = 95


@dataclass(frozen=True)
class Encoding:
    """resize_px: the most that the shorter side may have. format: JPEG, PNG or WEBP; None: as it was, else PNG."""

    resize_px: int | None = None
    format: str | None = None
    quality: int = DEFAULT_QUALITY

    @property
    def changes(self) -> bool:
        """Whether anything was asked for; otherwise the source's own bytes go into the shards."""
        return self.resize_px is not None or self.format is not None

    def format_of(self, was: str, shrinks: bool) -> str:
        """The format that an image of the format `was` gets."""
        return self.format or (was if was in _SETTINGS or not shrinks else "PNG")

    def stated(self) -> dict[str, Any] | None:
        """For shards.json: equal values, and equal bytes of the source, give equal bytes."""
        if not self.changes:
            return None
        reencode = None if self.format is None else f"{self.format.lower()}:{self.quality}"
        return {"resize_px": self.resize_px, "reencode": reencode, "pillow": PIL.__version__}


def parse_encoding(resize_px: int | None, reencode: str | None) -> Encoding:
    """`jpeg:95`, `webp:90` or `png` as an Encoding. Raises UsageError."""
    if reencode is None:
        return Encoding(resize_px)
    name, _, quality = reencode.partition(":")
    kind = name.strip().upper().replace("JPG", "JPEG")
    if kind not in _SETTINGS:
        hint = nearest(kind.lower(), ("jpeg", "png", "webp"))
        raise UsageError(f"--reencode {reencode}: unknown format '{name}'{hint}")
    if kind == "PNG" and quality:
        raise UsageError(f"--reencode {reencode}: PNG keeps every pixel and has no quality; write png")
    if quality and not (quality.isdecimal() and 1 <= int(quality) <= 100):
        raise UsageError(f"--reencode {reencode}: the quality is a whole number from 1 to 100, such as jpeg:95")
    return Encoding(resize_px, kind, int(quality or DEFAULT_QUALITY))


def encoded_anew(data: bytes, encoding: Encoding, where: str) -> tuple[bytes, str, int, int]:
    """The image's new bytes, their format, width and height in pixels, upright.

    Bytes that need no change stay as they are: nothing to shrink, and no format was asked for. Raises: SourceError.
    """
    decoded = decode(data)
    if isinstance(decoded, Rejected):
        raise SourceError(f"{where}: cannot be decoded any more: {decoded.detail}; embed it again")
    picture, factor = decoded.image, (encoding.resize_px or 0) / min(decoded.image.size)
    shrinks = 0 < factor < 1
    if encoding.format is None and not shrinks:
        return data, decoded.format, *picture.size
    if shrinks:
        width, height = (max(1, round(side * factor)) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    kind = encoding.format_of(decoded.format, shrinks)
    quality = {} if kind == "PNG" else {"quality": encoding.quality}
    buffer = io.BytesIO()
    try:
        picture.save(buffer, kind, **quality, **_SETTINGS[kind])
    except (OSError, ValueError) as error:  # WebP takes sides of up to 16,383 px, JPEG of up to 65,500
        size = f"{picture.width:,} x {picture.height:,} px"
        raise SourceError(f"{where}: {size} cannot be written as {kind} ({error}); give --resize or png") from error
    return buffer.getvalue(), kind, *picture.size
