"""A CLIP, whichever library it comes from: pixels and prompts to unit embeddings."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from curate.models.towers.precision import autocast, hold, memory_format


@dataclass(eq=False)
class ClipTower:
    """A model by its two halves, each with what comes before it.

    encoders: the modules that `image_features` runs. tokenizer: prompts -> what `prompt_features` takes; long ones cut.
    `str` of `preprocess` says what it does.
    """

    name: str
    model: Any
    encoders: tuple[torch.nn.Module, ...]
    preprocess: Callable[[Image.Image], torch.Tensor]
    image_features: Callable[[torch.Tensor], torch.Tensor]
    tokenizer: Callable[[list[str]], Any]
    prompt_features: Callable[[Any], torch.Tensor]
    identity: dict[str, Any]
    device: str
    precision: str

    def __post_init__(self) -> None:
        self.model.eval().requires_grad_(False)
        for encoder in self.encoders:
            hold(encoder, self.device, self.precision)
        self.model.to(self.device)
        self.preprocessing = str(self.preprocess)
        self.scale = float(self.model.logit_scale.exp())
        self.dimension = int(self.embed_prompts(["a"]).shape[1])

    @torch.inference_mode()
    def embed_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """(n, 3, height, width) -> float32 (n, dimension), L2-normalised, on the CPU."""
        layout = memory_format(self.device, self.precision)
        with autocast(self.device, self.precision):
            return _unit(self.image_features(pixels.to(self.device, memory_format=layout)))

    @torch.inference_mode()
    def embed_prompts(self, prompts: list[str]) -> torch.Tensor:
        """n prompts -> float32 (n, dimension), L2-normalised, on the CPU; long prompts are cut.

        In float32 whatever `precision` says: each runs once, and its rounding would be in every score of its pictures.
        """
        with autocast(self.device, "fp32"):
            return _unit(self.prompt_features(self.tokenizer(prompts).to(self.device)))


def _unit(features: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(features.float(), dim=-1).cpu()
