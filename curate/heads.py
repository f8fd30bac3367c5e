"""What turns embeddings into scores. Heads read tensors, never files; `load_head` reads weights once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch

from curate.errors import ModelError
from curate.model_set import ScorerSpec, file_sha256, weights_file

if TYPE_CHECKING:
    from curate.towers import Tower


class Head(Protocol):
    """One float for each row of two matched (n, dimension) batches of unit embeddings."""

    def __call__(self, images: torch.Tensor, prompts: torch.Tensor) -> torch.Tensor:
        """float32 (n,)."""
        ...


@dataclass(frozen=True)
class CosineHead:
    """scale · cosine. CLIP score and HPSv2 use scale 1; PickScore uses exp(logit_scale), about 100."""

    scale: float = 1.0

    def __call__(self, images: torch.Tensor, prompts: torch.Tensor) -> torch.Tensor:
        """float32 (n,)."""
        return self.scale * (images.float() * prompts.float()).sum(dim=-1)


@dataclass(frozen=True)
class AestheticHead:
    """LAION's aesthetic predictor on the unit image embedding; the prompt plays no part.

    Linear layers without activations between them (christophschuhmann/improved-aesthetic-predictor,
    simple_inference.py: 768-1024-128-64-16-1) are one affine map: weight (dimension,), bias ().
    Nominal range 0 to 10, unbounded.
    """

    weight: torch.Tensor
    bias: torch.Tensor

    def __call__(self, images: torch.Tensor, prompts: torch.Tensor) -> torch.Tensor:
        """float32 (n,)."""
        return images.float() @ self.weight + self.bias


def fold_linear_layers(state: dict[str, torch.Tensor]) -> AestheticHead:
    """The affine map of a stack of linear layers, folded in float64.

    state: a `.pth` in LAION's layouts: `layers.<i>.weight/.bias`, or one linear layer's `weight/bias`.
    Raises: ValueError when the layers do not chain or do not end in one number.
    """
    names = sorted((key.removesuffix("weight") for key in state if key.endswith("weight")), key=_layer_number)
    if not names:
        raise ValueError("no '…weight' among its keys")
    weight = torch.eye(state[f"{names[0]}weight"].shape[1], dtype=torch.float64)
    bias = torch.zeros(weight.shape[0], dtype=torch.float64)
    for name in names:
        layer = state[f"{name}weight"].double()
        if layer.shape[1] != weight.shape[0]:
            raise ValueError(f"{name}weight takes {layer.shape[1]} numbers, the layer before gives {weight.shape[0]}")
        weight, bias = layer @ weight, layer @ bias + state[f"{name}bias"].double()
    if weight.shape[0] != 1:
        raise ValueError(f"the last layer gives {weight.shape[0]} numbers, a score is one")
    return AestheticHead(weight[0].float(), bias[0].float())


def load_head(spec: ScorerSpec, tower: Tower, folder: Path) -> tuple[Head, str | None]:
    """The scorer's head, and its weights' sha256 where it has weights. Raises ModelError."""
    if spec.head == "cosine":
        return CosineHead(), None
    if spec.head == "scaled_cosine":
        return CosineHead(tower.scale), None
    path = weights_file(spec.options["weights"], folder, spec.options.get("sha256"))
    head = load_aesthetic_head(path)
    if head.weight.shape[0] != tower.dimension:
        raise ModelError(
            f"{path} takes embeddings of {head.weight.shape[0]} numbers, tower '{tower.name}' gives {tower.dimension}"
        )
    return head, file_sha256(path)


def load_aesthetic_head(path: Path) -> AestheticHead:
    """Read a LAION `.pth` without unpickling code. Raises ModelError naming the file."""
    try:
        return fold_linear_layers(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # torch raises many kinds for a file that is no checkpoint
        raise ModelError(f"{path} is not an aesthetic head in LAION's layout: {error}") from error


def _layer_number(name: str) -> int:
    digits = "".join(filter(str.isdigit, name))
    return int(digits) if digits else 0
