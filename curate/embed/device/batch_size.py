"""How many pictures go through the towers at once: as many as is fast and memory holds."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from PIL import Image

from curate.errors import CurateError, ModelError
from curate.models.batch_limit import first_sentence, free_memory, out_of_memory
from curate.models.towers.compiled import Compilable, StaticBatch
from curate.terminal.progress import say

if TYPE_CHECKING:
    from curate.models.scoring import EmbeddedPrompts, Pictures, Scoring


CPU_IMAGES = 64
FIRST_IMAGES, MOST_IMAGES = 16, 1024
LEAST_GAIN = 0.03
"""Twice the pictures must go by at least this share faster, or the smaller batch is kept."""
PROBE_SEC = 0.5


def find_batch(scoring: Scoring, device: str) -> int:
    """The number of pictures at which twice as many no longer go by faster, or no longer fit; random pixels.

    On the CPU a fixed number: measuring costs more than it brings there, and equal batches give equal last bits.
    """
    if device == "cpu":
        return CPU_IMAGES
    return largest_useful(lambda images: probe(scoring, device, images))


def largest_useful(rate: Callable[[int], float]) -> int:
    """Doubles while the rate, in pictures per second, grows by LEAST_GAIN. Raises: ModelError when nothing fits."""
    images = FIRST_IMAGES
    while (best := _rate_or_none(rate, images)) is None:
        if images == 1:
            raise ModelError("out of memory with one picture at a time; free some, or use --precision bf16")
        images //= 2
    while images < MOST_IMAGES:
        doubled = _rate_or_none(rate, 2 * images)
        if doubled is None or doubled < best * (1 + LEAST_GAIN):
            break
        images, best = 2 * images, doubled
    return images


def probe(scoring: Scoring, device: str, images: int, seconds: float | None = None) -> float:
    """Pictures per second through every tower and scorer, from the device's memory, after one pass that warms up."""
    batch = made_up(scoring, device, images)

    def score() -> int:
        scoring.score_at_once(*batch)  # ends on the CPU: nothing is left under way
        return images

    return rate_of(score, PROBE_SEC if seconds is None else seconds)


def rate_of(work: Callable[[], int], seconds: float) -> float:
    """Units per second of work that returns how many units it did; once at least, the first time for warmth."""
    work()
    start, units = time.perf_counter(), 0
    while True:
        units += work()
        elapsed = time.perf_counter() - start
        if elapsed >= seconds:
            return units / elapsed


def made_up(scoring: Scoring, device: str, images: int) -> tuple[Pictures, list[tuple[int, str]], EmbeddedPrompts]:
    """Pictures of random pixels, each with two prompts as in Pick-a-Pic: what `score_pictures` takes."""
    from curate.models.scoring import EmbeddedPrompts

    like = scoring.preprocess(Image.new("RGB", (64, 64)))
    pictures = {key: _random_like(values, images, device) for key, values in like.items()}
    texts = ["a photograph of a fox", "a red circle above a blue square"]
    prompts = EmbeddedPrompts({"0": 0, "1": 1}, texts, scoring.embed_prompts(texts))
    return pictures, [(row, prompt_id) for row in range(images) for prompt_id in prompts.rows], prompts


def _random_like(one: torch.Tensor, images: int, device: str) -> torch.Tensor:
    """Many pictures of one's shape and number format; of whole numbers, which may be places in a table, itself."""
    if one.is_floating_point():
        return torch.randn(images, *one.shape, device=device).to(one.dtype)
    return one.to(device).expand(images, *one.shape).contiguous()


def make_ready(scoring: Scoring, device: str, batch_images: int | None, compiled: bool) -> int:
    """Settle how many pictures make up a batch, and compile the towers for that. Returns the number.

    batch_images: None finds it. Raises: ModelError when nothing fits, or torch.compile does not work here.
    """
    size = batch_images or find_batch(scoring, device)
    if batch_images is None and device != "cpu":
        say(f"batches of {size} pictures: twice as many are not faster on {device}, or do not fit")
    scoring.limit.size = size
    if compiled:
        compile_towers(scoring, device, size)
    return size


def compile_towers(scoring: Scoring, device: str, images: int) -> None:
    """Compile every tower's picture encoder, by two batches of random pixels, and say how long it took."""
    start = time.perf_counter()
    towers = [tower for tower in scoring.towers.values() if isinstance(tower, Compilable)]
    for tower in towers:
        if not isinstance(tower.image_features, StaticBatch):
            tower.image_features = StaticBatch(tower.image_features, scoring.limit)
    try:
        for size in (images, 1):  # a whole batch, and the end of a part
            scoring.score_pictures(*made_up(scoring, device, size))
    except CurateError:
        raise
    except Exception as error:  # the compiler's many ways to fail: no C compiler, no Triton, an operator it lacks
        raise ModelError(f"torch.compile fails here ({first_sentence(error)}); run without --compile") from error
    say(f"compiled {len(towers)} {'tower' if len(towers) == 1 else 'towers'} in {time.perf_counter() - start:.0f} s")


def _rate_or_none(rate: Callable[[int], float], images: int) -> float | None:
    try:
        return rate(images)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
    free_memory()
    return None
