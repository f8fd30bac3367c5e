"""`--precision auto`: on a GPU the half precision that is nearest to float32 with the models of the run, measured."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image

from curate.errors import ModelError, UsageError
from curate.models.batch_limit import free_memory
from curate.models.model_set import ModelSet, ScorerSpec
from curate.models.scorers import Matched, PixelScorer, preprocessing_of
from curate.models.scoring import Scoring, load_scoring, stacked
from curate.models.towers.precision import DTYPES, half_precisions
from curate.models.weights import fetched
from curate.terminal.progress import say

PICTURES = 16
TEXT = "a photograph of a fox"


def choose_precision(wanted: str, models: ModelSet, specs: list[ScorerSpec], devices: tuple[str, ...]) -> str:
    """`auto` is float32 on the CPU, else what `nearest` finds. Raises: UsageError for an unknown one; ModelError."""
    if wanted not in ("auto", *DTYPES):
        raise UsageError(f"--precision {wanted}: choose auto, {', '.join(DTYPES)}")
    if wanted != "auto":
        return wanted
    return "fp32" if devices[0] == "cpu" else nearest(models, specs, devices[0], half_precisions(devices))


def nearest(models: ModelSet, specs: list[ScorerSpec], device: str, precisions: tuple[str, ...]) -> str:
    """Of `precisions` the one that changes what the models make of a few pictures least; fp32 where each overflows.

    It depends on the weights and the kind of device alone, so processes that share a run come to the same. One model
    is loaded at a time.
    """
    away = dict.fromkeys(precisions, 0.0)
    models = fetched(models, specs)  # all of them, before the first is loaded
    own = [models.scorers[spec.name] for spec in specs if spec.tower or spec.head == "image_reward"]
    for spec in {spec.tower or spec.name: spec for spec in own}.values():
        for precision, distance in _distances(load_scoring(models, [spec], device, "fp32"), precisions).items():
            away[precision] += distance
        free_memory()
    if not own:
        return precisions[0]  # plug-ins and lists of words alone: no number is computed in it
    found = min(away, key=lambda precision: away[precision])
    told = ", ".join(f"{distance:.2g} {precision}" for precision, distance in away.items())
    say(f"how far the models are from float32 on {device}: {told}")
    return found if math.isfinite(away[found]) else "fp32"


def _distances(scoring: Scoring, precisions: tuple[str, ...]) -> dict[str, float]:
    """Mean distance from float32 of the tower's unit embeddings, or of a score that reads the pictures itself."""
    pictures = stacked([scoring.preprocess(picture) for picture in made_up_pictures()])
    away = dict.fromkeys(precisions, 0.0)
    for model, compute in _models(scoring, pictures):
        exact = _numbers(model, "fp32", compute)
        for precision in precisions:
            distance = (_numbers(model, precision, compute) - exact).norm(dim=1).mean().item()
            away[precision] += distance if math.isfinite(distance) else math.inf
    return away


def _models(scoring: Scoring, pictures: dict[str, torch.Tensor]) -> list[tuple[Any, Callable[[], torch.Tensor]]]:
    """What has a number format, and its numbers of the pictures, (PICTURES, n)."""
    found: list[tuple[Any, Callable[[], torch.Tensor]]] = []
    for tower in scoring.towers.values():
        found.append((tower, partial(tower.embed_images, pictures[tower.preprocessing])))
    for scorer, _ in scoring.heads.values():
        if not scoring.towers and isinstance(scorer, PixelScorer):
            rows = Matched([TEXT] * PICTURES, None, (pictures[preprocessing_of("", scorer)], torch.arange(PICTURES)))
            found.append((scorer, partial(scorer, rows)))
    return found


def _numbers(model: Any, precision: str, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
    """With weights in float32: autocast multiplies the same numbers as with weights held in half precision."""
    model.precision = precision
    try:
        return compute().reshape(PICTURES, -1)
    except ModelError:  # not finite
        return torch.tensor([[math.nan]])


def made_up_pictures() -> list[Image.Image]:
    """Half of them smooth, half of them noise; the same ones everywhere."""
    random = np.random.default_rng(0)
    sides = (4, 256) * (PICTURES // 2)
    tiny = [Image.fromarray(random.integers(0, 256, (side, side, 3), np.uint8)) for side in sides]
    return [one.resize((256, 256), Image.Resampling.BICUBIC) for one in tiny]
