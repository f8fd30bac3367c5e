"""`--decode`: what turns encoded bytes into pictures. Each takes a list, and gives as many pictures or reasons."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from curate.errors import UsageError
from curate.sources.images import Decoded, Rejected, decode, refuse, upright_size
from schemas.pictures import orientation

if TYPE_CHECKING:
    import torch

DECODES = ("pillow", "scaled", "nvjpeg")


@dataclass(frozen=True)
class DecodedOnDevice:
    """An upright RGB picture, uint8 (3, height, width) on the device that decoded it."""

    image: torch.Tensor
    format: str
    width: int
    height: int


Decoder = Callable[[list[bytes | None]], list[Decoded | DecodedOnDevice | Rejected]]


@dataclass(frozen=True)
class PillowDecoder:
    """Each image by Pillow; it pickles. at_least_px: as `images.decode` takes it."""

    at_least_px: int | None = None

    def __call__(self, encoded: list[bytes | None]) -> list[Decoded | DecodedOnDevice | Rejected]:
        """A picture, or the reason why not, for each."""
        return [decode(data, at_least_px=self.at_least_px) for data in encoded]


@dataclass(frozen=True)
class _Jpeg:
    """A JPEG whose header is sound. `data` ends as a JPEG must."""

    data: bytes
    width: int
    height: int
    orientation: int


class TorchvisionDecoder:
    """JPEGs in RGB by torchvision, all of a list at once: nvJPEG on CUDA, libjpeg-turbo on the CPU.

    Everything else, and every JPEG that it fails on or that is cut short, is left to Pillow, which gives the reason.
    Threads may share it; on CUDA each has a stream of its own, so that a copy does not wait for the towers.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self.mine = threading.local()
        # torchvision 0.29 points to torchcodec, and keeps the function for a while. Threads share the filters.
        warnings.filterwarnings(
            "ignore", r"(?s).*decoding and encoding capabilities of TorchVision", DeprecationWarning
        )

    def __call__(self, encoded: list[bytes | None]) -> list[Decoded | DecodedOnDevice | Rejected]:
        """A picture, or the reason why not, for each."""
        self._use_own_stream()
        seen = [_jpeg(data) or decode(data) for data in encoded]
        jpegs = [one for one in seen if isinstance(one, _Jpeg)]
        pictures = iter(self._decode(jpegs))
        return [next(pictures) if isinstance(one, _Jpeg) else one for one in seen]

    def check(self) -> None:
        """Raises UsageError where this torchvision cannot decode on this device; else Pillow would do all the work."""
        tiny = BytesIO()
        Image.new("RGB", (16, 16)).save(tiny, "JPEG")
        try:
            self._pixels([tiny.getvalue()])
        except RuntimeError as error:
            reason = str(error).split("\n", 1)[0]
            raise UsageError(f"--decode nvjpeg does not work here ({reason}); use pillow") from error

    def _decode(self, jpegs: list[_Jpeg]) -> list[Decoded | DecodedOnDevice | Rejected]:
        """All at once; where one of them fails, one by one."""
        import torch

        if not jpegs:
            return []
        try:
            pixels = self._pixels([jpeg.data for jpeg in jpegs])
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            if len(jpegs) == 1:
                return [decode(jpegs[0].data)]
            return [self._decode([jpeg])[0] for jpeg in jpegs]
        return [
            DecodedOnDevice(turned(values, jpeg.orientation), "JPEG", jpeg.width, jpeg.height)
            for values, jpeg in zip(pixels, jpegs, strict=True)
        ]

    def _pixels(self, encoded: list[bytes]) -> list[torch.Tensor]:
        import torch
        from torchvision.io import ImageReadMode, decode_jpeg

        tensors = [torch.from_numpy(np.frombuffer(bytearray(data), np.uint8)) for data in encoded]
        return list(decode_jpeg(tensors, ImageReadMode.RGB, self.device))

    def _use_own_stream(self) -> None:
        """A thread's current stream is its own affair; the main thread's stays what it is."""
        import torch

        aside = self.device.startswith("cuda") and threading.current_thread() is not threading.main_thread()
        if aside and not hasattr(self.mine, "stream"):
            self.mine.stream = torch.cuda.Stream(self.device)
            torch.cuda.set_stream(self.mine.stream)


def _jpeg(data: bytes | None) -> _Jpeg | None:
    """A whole JPEG in RGB; None for anything else, which Pillow decodes or rejects."""
    if not data or not data.startswith(b"\xff\xd8\xff") or not data.rstrip(b"\0").endswith(b"\xff\xd9"):
        return None
    try:
        image = Image.open(BytesIO(data))
        refuse(image)
        ycbcr = image.mode == "RGB" and image.info.get("adobe_transform") != 0  # nvJPEG may not read Adobe's marker
        fits = image.format == "JPEG" and ycbcr
        return _Jpeg(data, *upright_size(image, image.size), orientation(image)) if fits else None
    except Exception:  # whatever is wrong with it, Pillow's own decoding says it in the same words as ever
        return None


def turned(picture: torch.Tensor, by: int) -> torch.Tensor:
    """(3, height, width) upright by its EXIF orientation, 1 to 8."""
    if by >= 5:
        picture = picture.transpose(1, 2)
    flipped = {2: [2], 3: [1, 2], 4: [1], 6: [2], 7: [1, 2], 8: [1]}.get(by, [])
    return picture.flip(flipped) if flipped else picture


def check_decode(how: str, device: str) -> None:
    """Raises UsageError for an unknown way, or one that the device does not have."""
    if how not in DECODES:
        raise UsageError(f"--decode {how}: choose {', '.join(DECODES)}")
    if how == "nvjpeg" and not device.startswith("cuda"):
        raise UsageError(f"--decode nvjpeg needs a CUDA device, and this run is on {device}; use pillow or scaled")


def choose_decoder(how: str, device: str, needed_px: int) -> Decoder:
    """needed_px: the short side that every preprocessing of the run only makes smaller. Raises UsageError."""
    check_decode(how, device)
    if how == "nvjpeg":
        decoder = TorchvisionDecoder(device)
        decoder.check()
        return decoder
    return PillowDecoder(needed_px if how == "scaled" else None)
