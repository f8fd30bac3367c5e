"""HPSv2: a CLIP of open_clip's architecture with its own checkpoint layout and its own preprocessing.

Source: tgxs002/HPSv2 at 866735e, hpsv2/img_score.py (the checkpoint's `state_dict`) and
hpsv2/src/open_clip/transform.py (ToTensor, then the long side is resized to the model's side and the rest padded
with 0, then normalised). benchmarks/parity/hpsv2.py runs it beside ours: equal to the last bit, but where a picture's
long side fits without resizing: there the original leaves the short side unpadded, and its model refuses the shape.
"""

from pathlib import Path

import open_clip
import torch
from torchvision.transforms import Compose, InterpolationMode, Normalize, ToTensor, functional as transforms

from curate.errors import ModelError
from curate.models.model_set import TowerSpec
from curate.models.towers.checkpoints import quiet, read_checkpoint, unfilled
from curate.models.towers.clip import ClipTower
from curate.models.towers.open_clip import architecture_of
from curate.models.weights import checked_sha256, weights_file

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)


class FitLongSide:
    """Resize a (3, height, width) tensor so that its long side is `side_px`, and centre it on zeros."""

    def __init__(self, side_px: int) -> None:
        self.side_px = side_px

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        height, width = pixels.shape[1:]
        scale = self.side_px / max(height, width)
        if scale == 1.0 and height == width:
            return pixels
        new_height, new_width = round(height * scale), round(width * scale)
        resized = transforms.resize(pixels, [new_height, new_width], InterpolationMode.BICUBIC, antialias=True)
        pad_height, pad_width = self.side_px - new_height, self.side_px - new_width
        left, top = pad_width // 2, pad_height // 2
        return transforms.pad(resized, [left, top, pad_width - left, pad_height - top], fill=0)

    def __repr__(self) -> str:
        return f"FitLongSide({self.side_px})"


def hpsv2_transform(side_px: int) -> Compose:
    """HPSv2's inference preprocessing for a model of `side_px` squared."""
    return Compose([ToTensor(), FitLongSide(side_px), Normalize(OPENAI_MEAN, OPENAI_STD)])


def load_hpsv2(spec: TowerSpec, folder: Path, device: str, precision: str) -> ClipTower:
    """Architecture by `model` (an open_clip name) or `folder`; weights from `checkpoint`."""
    path = weights_file(spec.options["checkpoint"], folder, spec.options.get("sha256"))
    name, config = architecture_of(spec.options, folder)
    with quiet():
        tokenizer = open_clip.get_tokenizer(name)
        with unfilled():
            model = open_clip.create_model(name, load_weights=False)
    checkpoint = read_checkpoint(path)
    if "state_dict" not in checkpoint:
        raise ModelError(f"{path} is not an HPSv2 checkpoint: no 'state_dict' among {sorted(checkpoint)[:5]}")
    held = checkpoint["state_dict"]  # in float16 as published: each is let go once it stands in float32
    state = {key.removeprefix("module."): held.pop(key).float() for key in list(held)}
    model.load_state_dict(state, assign=True)
    identity = {
        "model": spec.options.get("model", spec.options.get("folder")),
        "checkpoint": spec.options["checkpoint"],
    }
    identity["sha256"] = checked_sha256(path, spec.options.get("sha256"))
    transform = hpsv2_transform(int(config["vision_cfg"]["image_size"]))
    parts = (model, (model.visual,), transform, model.visual, tokenizer, model.encode_text)
    return ClipTower(spec.name, *parts, identity, device, precision)
