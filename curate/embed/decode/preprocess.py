"""One image's bytes to pixels and facts, in whatever thread or process: nothing here knows tables or sources."""

from hashlib import sha256
from typing import NamedTuple

import torch
from PIL import Image

from curate.embed.decode.decoders import Decoder
from curate.embed.decode.steps import Picture, Preprocess, all_pixels
from curate.sources.images import Rejected

CHUNK_IMAGES = 8
"""Images that a thread or a process takes at once."""

Pixels = dict[str, torch.Tensor]
"""Name of a preprocessing -> (n, 3, height, width)."""
Preprocessors = dict[str, Preprocess]
"""Each takes what the decoder gives: a picture of Pillow's, or pixels on a device."""


class DecodedFacts(NamedTuple):
    """What an image's bytes are."""

    sha256: str
    size_bytes: int
    width: int
    height: int
    format: str


class PixelLayout(NamedTuple):
    """Shape and number format of one preprocessed picture."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        """Of one picture."""
        return int(torch.Size(self.shape).numel()) * self.dtype.itemsize


def layouts(preprocessors: Preprocessors) -> dict[str, PixelLayout]:
    """What each preprocessing makes of any picture: they all have one size."""
    made = {key: preprocess(Image.new("RGB", (64, 64))) for key, preprocess in preprocessors.items()}
    return {key: PixelLayout(tuple(values.shape), values.dtype) for key, values in made.items()}


def prepare(
    decode: Decoder, preprocessors: Preprocessors, encoded: list[bytes | None], pixels: Pixels
) -> list[DecodedFacts | Rejected]:
    """Decode each image once, and write every preprocessing of it into its row of `pixels`."""
    results: list[DecodedFacts | Rejected] = []
    for index, (data, decoded) in enumerate(zip(encoded, decode(encoded), strict=True)):
        if isinstance(decoded, Rejected):
            results.append(decoded)
            continue
        if failed := _preprocess(decoded.image, preprocessors, pixels, index):
            results.append(failed)
            continue
        digest = sha256(data or b"").hexdigest()
        results.append(DecodedFacts(digest, len(data or b""), decoded.width, decoded.height, decoded.format))
    return results


def _preprocess(picture: Picture, preprocessors: Preprocessors, pixels: Pixels, row: int) -> Rejected | None:
    """Write every preprocessing of a picture into its row; whatever one of them raises costs this picture only."""
    try:
        for key, found in all_pixels(picture, preprocessors):
            wanted = pixels[key][row]
            if found.shape != wanted.shape:
                raise ValueError(f"it gave {tuple(found.shape)}, where other pictures give {tuple(wanted.shape)}")
            wanted.copy_(found)
    except torch.OutOfMemoryError:  # the device's fault, not the picture's
        raise
    except Exception as error:
        return Rejected("image_unscorable", f"{type(error).__name__}: {error}")
    return None
