"""The towers' preprocessings taken apart into known steps, by their own parameters."""

from typing import Any

from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from curate.embed.decode.steps import AsFloat, CentreCut, Preprocess, Steps
from curate.models.towers.hpsv2 import FitLongSide
from curate.models.towers.transformers_clip import ProcessorPixels

TO_RGB = {"_convert_to_rgb", "MaybeConvertMode"}
"""open_clip's names, by version, of the step that makes RGB: pictures are RGB here already."""


def taken_apart(preprocess: Preprocess) -> Steps | None:
    """The known steps of a preprocessing of torchvision's, or of an image processor like CLIP's; None for any other."""
    if isinstance(preprocess, ProcessorPixels):
        return _of_processor(preprocess.processor)
    if not isinstance(preprocess, Compose):
        return None
    steps = [step for step in preprocess.transforms if getattr(step, "__name__", type(step).__name__) not in TO_RGB]
    if not all(isinstance(step, Resize | CenterCrop | ToTensor | Normalize | FitLongSide) for step in steps):
        return None
    resizes = [step for step in steps if isinstance(step, Resize)]
    short_px = min(map(_short_side_px, resizes), default=0)
    if any(step.max_size for step in resizes) or any(
        max(step.size) > short_px for step in steps if isinstance(step, CenterCrop)
    ):
        return None  # a cut that is larger than the picture fills it up
    return Steps(*map(_as_ours, steps))


def needed_side_px(preprocess: Preprocess) -> int:
    """The short side from which a picture is only ever made smaller.

    Of a preprocessing whose steps are not known, the longer side of what it returns.
    """
    known = taken_apart(preprocess)
    sides = [_side_px(step) for _, step in known.steps if isinstance(step, Resize | FitLongSide)] if known else []
    return max(sides, default=0) or max(preprocess(Image.new("RGB", (64, 64))).shape[-2:])


def _as_ours(step: Any) -> Any:
    if isinstance(step, CenterCrop):
        height_px, width_px = step.size
        return CentreCut(height_px, width_px, rounds=True)
    if isinstance(step, ToTensor):
        return AsFloat()
    return Normalize(tuple(step.mean), tuple(step.std)) if isinstance(step, Normalize) else step


def _of_processor(processor: CLIPImageProcessorPil) -> Steps | None:
    """The steps of an image processor that does as CLIP's does; None for any other."""
    does = ("do_resize", "do_center_crop", "do_rescale", "do_normalize")
    sides = {name: side for name, side in dict(processor.size).items() if side}
    crop = dict(processor.crop_size) if processor.crop_size else {}
    if list(sides) != ["shortest_edge"] or not all(getattr(processor, name) for name in does):
        return None
    short_px, height_px, width_px = sides["shortest_edge"], crop["height"], crop["width"]
    if processor.resample != Image.Resampling.BICUBIC or processor.rescale_factor != 1 / 255:
        return None
    if max(height_px, width_px) > short_px:
        return None
    return Steps(
        Resize(short_px, InterpolationMode.BICUBIC),
        CentreCut(height_px, width_px, rounds=False),
        AsFloat(),
        Normalize(tuple(processor.image_mean), tuple(processor.image_std)),
    )


def _short_side_px(step: Resize) -> int:
    """Of the resized picture."""
    return min(step.size) if isinstance(step.size, list | tuple) else int(step.size)


def _side_px(step: Resize | FitLongSide) -> int:
    if isinstance(step, FitLongSide):
        return step.side_px
    return max(step.size) if isinstance(step.size, list | tuple) else int(step.size)
