"""What a tower computes, counted on its architecture alone: no weights are read, and no memory is used for them."""

from collections.abc import Callable
from pathlib import Path

import open_clip
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, CLIPModel

from curate.models.model_set import TowerSpec
from curate.models.towers.checkpoints import quiet
from curate.models.towers.open_clip import architecture_of
from curate.models.weights import folder_or_id

META = torch.device("meta")


def tower_flop(spec: TowerSpec, folder: Path) -> tuple[int, int] | None:
    """Floating-point operations of one picture and of one prompt, a multiplication and an addition being two.

    Matrix products, convolutions and attention are counted, as FlopCounterMode does. None for a family that is not
    known here, and where the architecture cannot be read (its configuration is on a hub that is out of reach).
    """
    try:
        if spec.family in ("open_clip", "hpsv2"):
            return _open_clip_flop(spec, folder)
        return _transformers_clip_flop(spec, folder) if spec.family == "transformers_clip" else None
    except (OSError, RuntimeError, ValueError, KeyError):
        return None


def _open_clip_flop(spec: TowerSpec, folder: Path) -> tuple[int, int]:
    name, config = architecture_of(spec.options, folder)
    with quiet(), META:
        model = open_clip.create_model(name, load_weights=False, device=META).eval()
    side, length = config["vision_cfg"]["image_size"], config["text_cfg"].get("context_length", 77)
    tokens = torch.zeros(1, length, dtype=torch.long, device=META)
    return _flop(lambda: model.visual(torch.zeros(1, 3, side, side, device=META))), _flop(
        lambda: model.encode_text(tokens)
    )


def _transformers_clip_flop(spec: TowerSpec, folder: Path) -> tuple[int, int]:
    location = folder_or_id(spec.options["model"], folder)
    config = AutoConfig.from_pretrained(location, revision=spec.options.get("revision", "main"))
    with META:
        model = CLIPModel(config).eval()
    side, length = config.vision_config.image_size, config.text_config.max_position_embeddings
    pixels = torch.zeros(1, 3, side, side, device=META)
    tokens = torch.zeros(1, length, dtype=torch.long, device=META)
    return _flop(lambda: model.get_image_features(pixel_values=pixels)), _flop(
        lambda: model.get_text_features(input_ids=tokens)  # a mask would be looked at, and these have no values
    )


def _flop(forward: Callable[[], object]) -> int:
    """The native kernel of attention is one operation without a formula, so it is taken apart here."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            forward()
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
    return counter.get_total_flops()
