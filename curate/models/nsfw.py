"""LAION's classifiers of what is not safe for work, over a CLIP's image embedding.

Source: LAION-AI/CLIP-based-NSFW-Detector at d6bb8fe. Published are Keras models for ViT-L/14 and ViT-B/32, the same
weights as PyTorch files (its issue 7 and pull request 11), and a PyTorch model for laion2b's ViT-H/14. The two
PyTorch layouts are read here; a Keras folder is not.
"""

import itertools
from dataclasses import dataclass

import torch

from curate.models.scorers import Matched

KERAS_EPSILON = 1e-7  # least standard deviation of Keras's Normalization layer
Layer = tuple[torch.Tensor, torch.Tensor, bool]


@dataclass(frozen=True)
class NsfwHead:
    """A multi-layer perceptron over the unit image embedding: probability in [0, 1] that the picture is NSFW.

    mean, deviation: (dimension,), the input's normalisation. layers: weight, bias, and whether a ReLU follows.
    sigmoid: whether the last number is a log-odds; the ViT-H/14 model regresses on 0 and 1 instead, and its value is
    cut to [0, 1].
    """

    mean: torch.Tensor
    deviation: torch.Tensor
    layers: tuple[Layer, ...]
    sigmoid: bool

    @property
    def dimension(self) -> int:
        """Length of the embeddings that it takes."""
        return self.layers[0][0].shape[1]

    def __call__(self, matched: Matched) -> torch.Tensor:
        """float32 (n,) in [0, 1]; the prompt plays no part."""
        values = (matched.images.float() - self.mean) / self.deviation
        for weight, bias, activated in self.layers:
            values = torch.nn.functional.linear(values, weight, bias)
            values = values.relu() if activated else values
        values = values.squeeze(1)
        return values.sigmoid() if self.sigmoid else values.clamp(0.0, 1.0)


def nsfw_head(state: dict[str, torch.Tensor]) -> NsfwHead:
    """The head of a state dict in one of LAION's two layouts.

    `norm.mean`, `norm.variance`, `linear_<i>.*` with a ReLU between layers and a sigmoid at the end (ViT-L/14:
    768-64-512-256-1, ViT-B/32: 512-32-32-1); or `layers.<i>.*` without normalisation or sigmoid (ViT-H/14:
    1024-1024-2048-1024-256-128-16-1). Raises: ValueError for any other.
    """
    names = sorted((key.removesuffix(".weight") for key in state if key.endswith(".weight")), key=_number)
    normalised = "norm.mean" in state
    prefix = "linear_" if normalised else "layers."
    stray = [key for key in state if not key.startswith((prefix, "norm.") if normalised else prefix)]
    if not names or stray:
        raise ValueError(
            f"unknown keys {sorted(stray or state)[:3]}; it holds norm.* and linear_<i>.*, or layers.<i>.*"
        )
    activated = [True] * (len(names) - 1) + [False] if normalised else _activated([_number(name) for name in names])
    layers = tuple(
        (state[f"{name}.weight"].float(), state[f"{name}.bias"].float(), active)
        for name, active in zip(names, activated, strict=True)
    )
    _check_chain(names, layers)
    mean, variance = (state["norm.mean"], state["norm.variance"]) if normalised else (torch.zeros(1), torch.ones(1))
    deviation = variance.float().reshape(-1).sqrt().clamp(min=KERAS_EPSILON)
    return NsfwHead(mean.float().reshape(-1), deviation, layers, sigmoid=normalised)


def _number(name: str) -> int:
    digits = name.removeprefix("linear_").removeprefix("layers.")
    return int(digits) if digits.isdecimal() else -1


def _activated(numbers: list[int]) -> list[bool]:
    """Whether a ReLU follows each layer: Linear, ReLU and Dropout take three places, a Linear alone takes one.

    Raises: ValueError for another step, such as the aesthetic predictor's two (Linear, Dropout).
    """
    steps = [after - before for before, after in itertools.pairwise(numbers)]
    if any(step not in (1, 3) for step in steps):
        raise ValueError(f"its layers are numbered {numbers}; a ReLU and a Dropout make steps of 3, nothing makes 1")
    return [step == 3 for step in steps] + [False]


def _check_chain(names: list[str], layers: tuple[Layer, ...]) -> None:
    for name, (before, _, _), (after, _, _) in zip(names[1:], layers, layers[1:], strict=False):
        if after.shape[1] != before.shape[0]:
            raise ValueError(f"{name} takes {after.shape[1]} numbers, the layer before gives {before.shape[0]}")
    if layers[-1][0].shape[0] != 1:
        raise ValueError(f"the last layer gives {layers[-1][0].shape[0]} numbers, a score is one")
