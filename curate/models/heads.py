"""What turns embeddings, or a prompt alone, into scores. Heads read tensors and text, never files."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from curate.errors import ModelError
from curate.models.model_set import ScorerSpec
from curate.models.nsfw import NsfwHead, nsfw_head
from curate.models.scorers import Matched, Scorer
from curate.models.towers.checkpoints import LOADING_ERRORS, read_checkpoint, what_is_wrong
from curate.models.weights import checked_sha256, weights_file

if TYPE_CHECKING:
    from curate.models.towers import Tower


@dataclass(frozen=True)
class CosineHead:
    """scale · cosine. CLIP score and HPSv2 use scale 1; PickScore uses exp(logit_scale), about 100."""

    scale: float = 1.0

    def __call__(self, matched: Matched) -> torch.Tensor:
        """float32 (n,)."""
        return self.scale * (matched.images.float() * matched.prompts.float()).sum(dim=-1)


@dataclass(frozen=True)
class AestheticHead:
    """LAION's aesthetic predictor on the unit image embedding; the prompt plays no part.

    Linear layers without activations between them (christophschuhmann/improved-aesthetic-predictor,
    simple_inference.py: 768-1024-128-64-16-1) are one affine map: weight (dimension,), bias ().
    Nominal range 0 to 10, unbounded.
    """

    weight: torch.Tensor
    bias: torch.Tensor

    def __call__(self, matched: Matched) -> torch.Tensor:
        """float32 (n,)."""
        return self.of(matched.images)

    def of(self, features: torch.Tensor) -> torch.Tensor:
        """The map of features (n, dimension): float32 (n,)."""
        return features.float() @ self.weight + self.bias


@dataclass(frozen=True)
class WordsHead:
    """1.0 where the prompt holds a word of a list, else 0.0; the picture plays no part.

    Case and Unicode's compatible forms do not matter; a word is found as a whole word only.
    """

    pattern: re.Pattern[str]

    def __call__(self, matched: Matched) -> torch.Tensor:
        """float32 (n,), each 0.0 or 1.0."""
        return torch.tensor([float(self.pattern.search(folded(text)) is not None) for text in matched.texts])


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


def folded(text: str) -> str:
    """Text without the differences of case and of compatible characters, and with single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def load_words_head(path: Path) -> WordsHead:
    """Read a list of words: UTF-8, one word or phrase a line; `#` begins a comment. Raises ModelError."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ModelError(f"{path} is not UTF-8 text: {error}") from error
    words = sorted({word for line in lines if (word := folded(line.partition("#")[0]))})
    if not words:
        raise ModelError(f"{path} holds no word; write one word or phrase a line")
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, words))})(?!\w)")
    return WordsHead(pattern)


def load_head(spec: ScorerSpec, towers: dict[str, Tower], folder: Path) -> tuple[Scorer, str | None]:
    """The head, over a tower's embeddings if it reads any, and its weights' sha256 if it has any. Raises ModelError."""
    if spec.head == "cosine":
        return CosineHead(), None
    if spec.head == "scaled_cosine":
        return CosineHead(towers[str(spec.tower)].scale), None
    stated = spec.options.get("sha256")
    path = weights_file(spec.options["words" if spec.head == "words" else "weights"], folder, stated)
    sha256 = checked_sha256(path, stated)
    if spec.head == "words":
        return load_words_head(path), sha256
    head, tower = read_head(spec.head, path), towers[str(spec.tower)]
    wanted = head.dimension if isinstance(head, NsfwHead) else head.weight.shape[0]
    if wanted != tower.dimension:
        raise ModelError(f"{path} takes embeddings of {wanted} numbers, tower '{tower.name}' gives {tower.dimension}")
    return head, sha256


LAYOUTS: dict[str, tuple[Callable[[dict[str, torch.Tensor]], AestheticHead | NsfwHead], str]] = {
    "aesthetic": (fold_linear_layers, "an aesthetic head in LAION's layout"),
    "nsfw": (nsfw_head, "an NSFW head in one of LAION's PyTorch layouts"),
}


def read_head(kind: str, path: Path) -> AestheticHead | NsfwHead:
    """Read a LAION `.pth` of a kind in LAYOUTS, without unpickling code. Raises ModelError naming the file."""
    head_of, layout = LAYOUTS[kind]
    try:
        return head_of(read_checkpoint(path))
    except LOADING_ERRORS as error:
        raise ModelError(f"{path} is not {layout}: {what_is_wrong(error)}") from error


def _layer_number(name: str) -> int:
    digits = "".join(filter(str.isdigit, name))
    return int(digits) if digits else 0
