"""The judges' architectures, in the formats of the real ones, and one face for training them all."""

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

from benchmarks.demo_world.lexicon import CONTEXT_LENGTH, END, make_tokenizer, save_tokenizer
from benchmarks.demo_world.scenes import IMAGE_SIZE_PX

PATCH_PX = 8
OPEN_CLIP_PAD = "!"  # id 0: open_clip pools the text at the largest id, which must occur once
_MEAN = torch.tensor(OPENAI_DATASET_MEAN).view(1, 3, 1, 1)
_STD = torch.tensor(OPENAI_DATASET_STD).view(1, 3, 1, 1)


@dataclass(frozen=True)
class OpenClipSize:
    """What sets one open_clip model apart from another here."""

    embed_dim: int
    width: int
    vision_layers: int
    text_layers: int


CLIP_SIZE = OpenClipSize(embed_dim=64, width=64, vision_layers=3, text_layers=2)
HPS_SIZE = OpenClipSize(embed_dim=48, width=56, vision_layers=4, text_layers=2)


class Tower(nn.Module, ABC):
    """A CLIP-like model of any family behind `image_embedding`, `text_embedding`, `scale`."""

    def __init__(self, model: nn.Module, pad_token: str) -> None:
        super().__init__()
        self.model: Any = model
        self.tokenizer = make_tokenizer(pad_token)

    @property
    def scale(self) -> Tensor:
        """exp(logit_scale), dimensionless, held under CLIP's own limit of 100."""
        scale: Tensor = self.model.logit_scale.exp().clamp(max=100.0)
        return scale

    def image_embedding(self, pictures: Tensor) -> Tensor:
        """(b, 3, 64, 64) in [0, 1] to L2-normalised (b, d)."""
        features = self.image_features((pictures - _MEAN) / _STD)
        return nn.functional.normalize(features, dim=-1)

    def text_embedding(self, prompts: list[str]) -> Tensor:
        """Prompts to L2-normalised (b, d)."""
        tokens = self.tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt")
        return nn.functional.normalize(self.text_features(tokens.input_ids), dim=-1)

    @abstractmethod
    def image_features(self, pixels: Tensor) -> Tensor:
        """Normalised (b, 3, 64, 64) to (b, d)."""

    @abstractmethod
    def text_features(self, token_ids: Tensor) -> Tensor:
        """(b, tokens) to (b, d)."""


class OpenClipTower(Tower):
    """A model of open_clip's `CLIP` class."""

    def __init__(self, size: OpenClipSize) -> None:
        super().__init__(open_clip.model.CLIP(**open_clip_model_cfg(size)), OPEN_CLIP_PAD)

    def image_features(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.model.encode_image(pixels)
        return features

    def text_features(self, token_ids: Tensor) -> Tensor:
        features: Tensor = self.model.encode_text(token_ids)
        return features


class TransformersTower(Tower):
    """A transformers `CLIPModel`, PickScore's family."""

    def __init__(self) -> None:
        super().__init__(CLIPModel(pickscore_config()), END)

    def image_features(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.model.get_image_features(pixel_values=pixels).pooler_output
        return features

    def text_features(self, token_ids: Tensor) -> Tensor:
        features: Tensor = self.model.get_text_features(input_ids=token_ids).pooler_output
        return features


def open_clip_model_cfg(size: OpenClipSize) -> dict[str, Any]:
    """`model_cfg` of open_clip_config.json: the ordinary ViT and the ordinary CLIP text tower."""
    heads = 4
    return {
        "embed_dim": size.embed_dim,
        "vision_cfg": {
            "image_size": IMAGE_SIZE_PX,
            "layers": size.vision_layers,
            "width": size.width,
            "head_width": size.width // heads,
            "patch_size": PATCH_PX,
        },
        "text_cfg": {
            "context_length": CONTEXT_LENGTH,
            "vocab_size": len(make_tokenizer(OPEN_CLIP_PAD)),
            "width": size.width,
            "heads": heads,
            "layers": size.text_layers,
        },
    }


def save_open_clip_config(folder: Path, size: OpenClipSize) -> None:
    """open_clip_config.json and the tokenizer beside it; `hf_tokenizer_name` makes open_clip read that."""
    folder.mkdir(parents=True, exist_ok=True)
    model_cfg = open_clip_model_cfg(size)
    model_cfg["text_cfg"]["hf_tokenizer_name"] = "."  # local-dir reads the folder itself whatever the name
    preprocess_cfg = {
        "size": [IMAGE_SIZE_PX, IMAGE_SIZE_PX],
        "mode": "RGB",
        "mean": list(OPENAI_DATASET_MEAN),
        "std": list(OPENAI_DATASET_STD),
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
    config = {"model_cfg": model_cfg, "preprocess_cfg": preprocess_cfg}
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_tokenizer(folder, OPEN_CLIP_PAD)


def pickscore_config() -> CLIPConfig:
    """A `CLIPModel` of 0.3 M parameters."""
    tokenizer = make_tokenizer(END)
    common = {"hidden_size": 64, "intermediate_size": 192, "num_attention_heads": 4, "projection_dim": 64}
    return CLIPConfig(
        text_config={
            **common,
            "num_hidden_layers": 2,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": CONTEXT_LENGTH,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={**common, "num_hidden_layers": 3, "image_size": IMAGE_SIZE_PX, "patch_size": PATCH_PX},
        projection_dim=64,
    )


def save_pickscore(tower: Tower, folder: Path) -> None:
    """The model and its processor, as PickScore_v1 and its laion processor in one folder."""
    tower.model.save_pretrained(folder)
    side = {"height": IMAGE_SIZE_PX, "width": IMAGE_SIZE_PX}
    images = CLIPImageProcessor(size={"shortest_edge": IMAGE_SIZE_PX}, crop_size=side)
    CLIPProcessor(image_processor=images, tokenizer=make_tokenizer(END)).save_pretrained(folder)
