"""CLIP towers in open_clip's format: a published tag, or a folder with open_clip_config.json."""

import json
from pathlib import Path
from typing import Any

import open_clip

from curate.errors import ModelError
from curate.models.model_set import TowerSpec
from curate.models.towers.checkpoints import quiet, unfilled
from curate.models.towers.clip import ClipTower
from curate.models.weights import checked_sha256


def load_open_clip(spec: TowerSpec, folder: Path, device: str, precision: str) -> ClipTower:
    """`folder` in the spec is a local directory; else `model` and `pretrained` are open_clip's names."""
    options = spec.options
    if "folder" in options:
        directory = (folder / options["folder"]).resolve()
        architecture, weights = f"local-dir:{directory}", _weights_in(directory)
        pretrained, preprocessing = None, dict[str, Any]()
    else:
        architecture, pretrained = options["model"], options["pretrained"]
        weights, preprocessing = _published(architecture, pretrained)
    with quiet():
        with unfilled():
            model, _, transform = open_clip.create_model_and_transforms(
                architecture, pretrained=pretrained and str(weights), weights_only=True, **preprocessing
            )
        tokenizer = open_clip.get_tokenizer(architecture)
    identity = {"model": options.get("model", options.get("folder")), "pretrained": pretrained or "folder"}
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
    for name in ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"):
        if (directory / name).is_file():
            return directory / name
    raise ModelError(f"{directory} holds no open_clip_model.safetensors; give a folder in open_clip's layout")


def _published(model: str, tag: str) -> tuple[Path, dict[str, Any]]:
    """A tag's weights, and its mean, std and resize: open_clip takes these from the tag, not from a file's path."""
    config = open_clip.pretrained.get_pretrained_cfg(model, tag)
    if not config:
        raise ModelError(f"open_clip knows no weights '{tag}' for '{model}'")
    try:
        weights = Path(open_clip.download_pretrained(config))
    except Exception as error:  # hub errors differ by version
        raise ModelError(
            f"cannot download open_clip's {model}/{tag} ({type(error).__name__}); run once where there is a network, "
            "or give a local folder in a TOML file to --models"
        ) from error
    return weights, {
        "image_mean": config["mean"],
        "image_std": config["std"],
        "image_interpolation": config["interpolation"],
        "image_resize_mode": config["resize_mode"],
    }
