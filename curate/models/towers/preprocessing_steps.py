"""What is known of the towers' preprocessings: the size that they need, and the same steps on a device's own pixels."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor
from torchvision.transforms.functional import to_pil_image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from curate.models.towers.hpsv2 import FitLongSide
from curate.models.towers.transformers_clip import ProcessorPixels

Preprocess = Callable[[Image.Image], torch.Tensor]


def needed_side_px(preprocess: Preprocess) -> int:
    """The short side from which a picture is only ever made smaller.

    Of a preprocessing whose steps are not known, the longer side of what it returns.
    """
    steps = _steps(preprocess)
    sides = [_side_px(step) for step in steps if isinstance(step, Resize | FitLongSide)] if steps else []
    return max(sides, default=0) or max(preprocess(Image.new("RGB", (64, 64))).shape[-2:])


@dataclass(frozen=True)
class OnDevice:
    """A preprocessing that also takes a uint8 (3, height, width) tensor, and computes where that lies.

    A resize rounds to 8 bits as Pillow's does, yet not always to the same value; what cannot be taken apart into
    known steps gets the picture as Pillow's.
    """

    preprocess: Preprocess

    def __call__(self, picture: Image.Image | torch.Tensor) -> torch.Tensor:
        """float32 (3, height, width)."""
        if isinstance(picture, Image.Image):
            return self.preprocess(picture)
        steps = _steps(self.preprocess)
        if steps is None:
            return self.preprocess(to_pil_image(picture.cpu()))
        for step in steps:
            picture = picture.float() / 255 if isinstance(step, ToTensor) else step(picture)
        return picture


def _steps(preprocess: Preprocess) -> list[Any] | None:
    """torchvision's steps, less the conversion to RGB; None when one is not known to take tensors."""
    if isinstance(preprocess, ProcessorPixels):
        return _processor_steps(preprocess.processor)
    if not isinstance(preprocess, Compose):
        return None
    steps = [step for step in preprocess.transforms if getattr(step, "__name__", "") != "_convert_to_rgb"]
    known = (Resize, CenterCrop, ToTensor, Normalize, FitLongSide)
    return steps if all(isinstance(step, known) for step in steps) else None


def _processor_steps(processor: CLIPImageProcessorPil) -> list[Any] | None:
    """The steps of an image processor that does as CLIP's does; None for any other."""
    does = ("do_resize", "do_center_crop", "do_rescale", "do_normalize")
    short_px = dict(processor.size).get("shortest_edge")
    if not short_px or not all(getattr(processor, name) for name in does):
        return None
    if processor.resample != Image.Resampling.BICUBIC or abs(processor.rescale_factor * 255 - 1) > 1e-6:
        return None
    crop = dict(processor.crop_size)
    return [
        Resize(short_px, InterpolationMode.BICUBIC),
        CenterCrop((crop["height"], crop["width"])),
        ToTensor(),
        Normalize(processor.image_mean, processor.image_std),
    ]


def _side_px(step: Resize | FitLongSide) -> int:
    if isinstance(step, FitLongSide):
        return step.side_px
    return max(step.size) if isinstance(step.size, list | tuple) else int(step.size)
