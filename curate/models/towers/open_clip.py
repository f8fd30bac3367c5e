"""CLIP towers in open_clip's format: a published tag, or a folder with open_clip_config.json."""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import open_clip
import torch
from PIL import Image

from curate.errors import ModelError
from curate.models.model_set import TowerSpec
from curate.models.towers.precision import autocast, hold, memory_format
from curate.storage.files import file_sha256


class OpenClipTower:
    """An open_clip model with its own tokenizer; `transform` is the picture's preprocessing."""

    def __init__(
        self,
        name: str,
        model: open_clip.CLIP,
        transform: Callable[[Image.Image], torch.Tensor],
        tokenizer: Callable[[list[str]], torch.Tensor],
        identity: dict[str, Any],
        device: str,
        precision: str,
    ) -> None:
        self.name = name
        self.model = model.eval().requires_grad_(False)
        hold(self.model.visual, device, precision)
        self.model.to(device)
        self.image_features: Callable[[torch.Tensor], torch.Tensor] = self.model.visual
        self.preprocess = transform
        self.tokenizer = tokenizer
        self.identity = identity
        self.device = device
        self.precision = precision
        self.preprocessing = str(transform)
        self.scale = float(self.model.logit_scale.exp())
        self.dimension = int(self.embed_prompts(["a"]).shape[1])

    @torch.inference_mode()
    def embed_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """(n, 3, height, width) -> float32 (n, dimension), L2-normalised, on the CPU."""
        with autocast(self.device, self.precision):
            features = self.image_features(
                pixels.to(self.device, memory_format=memory_format(self.device, self.precision))
            )
        return torch.nn.functional.normalize(features.float(), dim=-1).cpu()

    @torch.inference_mode()
    def embed_prompts(self, prompts: list[str]) -> torch.Tensor:
        """n prompts -> float32 (n, dimension), L2-normalised, on the CPU; long prompts are cut."""
        tokens = self.tokenizer(prompts).to(self.device)
        with autocast(self.device, self.precision):
            features = self.model.encode_text(tokens)
        return torch.nn.functional.normalize(features.float(), dim=-1).cpu()


def load_open_clip(spec: TowerSpec, folder: Path, device: str, precision: str) -> OpenClipTower:
    """`folder` in the spec is a local directory; else `model` and `pretrained` are open_clip's names."""
    options = spec.options
    if "folder" in options:
        directory = (folder / options["folder"]).resolve()
        architecture, weights = f"local-dir:{directory}", _weights_in(directory)
        pretrained = None
    else:
        architecture, pretrained = options["model"], options["pretrained"]
        weights = _published_weights(architecture, pretrained)
    with quiet():
        model, _, transform = open_clip.create_model_and_transforms(
            architecture,
            pretrained=pretrained and str(weights),
            weights_only=True,
            **_published_preprocessing(architecture, pretrained),
        )
        tokenizer = open_clip.get_tokenizer(architecture)
    identity = {"model": options.get("model", options.get("folder")), "pretrained": pretrained or "folder"}
    identity["sha256"] = checked_sha256(weights, options.get("sha256"))
    return OpenClipTower(spec.name, model, transform, tokenizer, identity, device, precision)


def architecture_of(
    options: dict[str, Any], folder: Path
) -> tuple[open_clip.CLIP, Callable[[list[str]], torch.Tensor], int]:
    """An untrained model of the named or described architecture, its tokenizer, and its image side in pixels."""
    if "folder" in options:
        directory = (folder / options["folder"]).resolve()
        config = json.loads((directory / "open_clip_config.json").read_text())["model_cfg"]
        name = f"local-dir:{directory}"
    else:
        name = options["model"]
        config = open_clip.get_model_config(name)
    with quiet():
        model = open_clip.create_model(name, load_weights=False)
        tokenizer = open_clip.get_tokenizer(name)
    return model, tokenizer, int(config["vision_cfg"]["image_size"])


def checked_sha256(path: Path, stated: str | None) -> str:
    """The file's sha256. Raises ModelError when it is not the stated one."""
    found = file_sha256(path)
    if stated is not None and found != stated:
        raise ModelError(f"{path}: sha256 is {found}, the set of models states {stated}")
    return found


@contextmanager
def quiet() -> Iterator[None]:
    """open_clip logs on the root logger while it loads, also warnings that do not concern the user."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(before)


def _weights_in(directory: Path) -> Path:
    for name in ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"):
        if (directory / name).is_file():
            return directory / name
    raise ModelError(f"{directory} holds no open_clip_model.safetensors; give a folder in open_clip's layout")


def _published_weights(model: str, tag: str) -> Path:
    config = open_clip.pretrained.get_pretrained_cfg(model, tag)
    if not config:
        raise ModelError(f"open_clip knows no weights '{tag}' for '{model}'")
    try:
        return Path(open_clip.download_pretrained(config))
    except Exception as error:  # hub errors differ by version
        raise ModelError(
            f"cannot download open_clip's {model}/{tag} ({type(error).__name__}); run once where there is a network, "
            "or give a local folder in a TOML file to --models"
        ) from error


def _published_preprocessing(model: str, tag: str | None) -> dict[str, Any]:
    """Mean, std and resize that belong to a tag: open_clip takes them from the tag, not from a file's path."""
    if tag is None:
        return {}
    config = open_clip.pretrained.get_pretrained_cfg(model, tag)
    return {
        "image_mean": config["mean"],
        "image_std": config["std"],
        "image_interpolation": config["interpolation"],
        "image_resize_mode": config["resize_mode"],
    }
