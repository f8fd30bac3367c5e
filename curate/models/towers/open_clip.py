"""CLIP towers in open_clip's format: a published tag, or a folder with open_clip_config.json."""

import json
from pathlib import Path
from typing import Any

import open_clip

from curate.errors import ModelError
from curate.models.model_set import TowerSpec
from curate.models.towers.checkpoints import quiet, unfilled
from curate.models.towers.clip import ClipTower
from curate.models.weights import OPEN_CLIP_NAMES, checked_sha256, weights_file


def load_open_clip(spec: TowerSpec, folder: Path, device: str, precision: str) -> ClipTower:
    """`folder` in the spec is a local directory; else `model` and `pretrained` are open_clip's names.

    `weights`, where the tag's weights lie, is there once the set is fetched.
    """
    options = spec.options
    if "folder" in options:
        directory = (folder / options["folder"]).resolve()
        architecture, weights = f"local-dir:{directory}", _weights_in(directory)
        pretrained, preprocessing = None, dict[str, Any]()
    else:
        architecture, pretrained = options["model"], options["pretrained"]
        weights = weights_file(options["weights"], folder, options.get("sha256"))
        preprocessing = _preprocessing(architecture, pretrained)
    with quiet():
        with unfilled():
            model, _, transform = open_clip.create_model_and_transforms(
                architecture, pretrained=pretrained and str(weights), weights_only=True, **preprocessing
            )
        tokenizer = open_clip.get_tokenizer(architecture)
    identity = {"model": options.get("model", options.get("folder")), "pretrained": pretrained or "folder"}
    identity |= {"weights": options["weights"]} if "weights" in options else {}
    identity["sha256"] = checked_sha256(weights, options.get("sha256"))
    parts = (model, (model.visual,), transform, model.visual, tokenizer, model.encode_text)
    return ClipTower(spec.name, *parts, identity, device, precision)


def architecture_of(options: dict[str, Any], folder: Path) -> tuple[str, dict[str, Any]]:
    """open_clip's name for the named or described architecture, and its configuration."""
    if "folder" not in options:
        return options["model"], open_clip.get_model_config(options["model"])
    directory = (folder / options["folder"]).resolve()
    return f"local-dir:{directory}", json.loads((directory / "open_clip_config.json").read_text())["model_cfg"]


def _weights_in(directory: Path) -> Path:
    for name in OPEN_CLIP_NAMES:
        if (directory / name).is_file():
            return directory / name
    raise ModelError(f"{directory} holds no open_clip_model.safetensors; give a folder in open_clip's layout")


def _preprocessing(model: str, tag: str) -> dict[str, Any]:
    """A tag's mean, std and resize: open_clip takes these from the tag, not from a file's path."""
    config = open_clip.pretrained.get_pretrained_cfg(model, tag)
    return {
        "image_mean": config["mean"],
        "image_std": config["std"],
        "image_interpolation": config["interpolation"],
        "image_resize_mode": config["resize_mode"],
    }
