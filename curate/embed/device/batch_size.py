"""How many pictures go through the towers at once: as many as memory holds, and fewer once it does not."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from PIL import Image

from curate.errors import CurateError, ModelError, UsageError
from curate.models.towers.compiled import Compilable, StaticBatch
from curate.terminal.progress import say

if TYPE_CHECKING:
    from curate.models.scoring import EmbeddedPrompts, Pictures, Scoring

R = TypeVar("R")
Scored = tuple[dict[str, torch.Tensor], dict[str, np.ndarray]]

CPU_IMAGES = 64
FIRST_IMAGES, MOST_IMAGES = 16, 1024
LEAST_GAIN = 0.03
"""Twice the pictures must go by at least this share faster, or the smaller batch is kept."""
PROBE_SEC = 0.5
CPU_REFUSES, CUDA_LIBRARIES_REFUSE = "DefaultCPUAllocator: can't allocate", "STATUS_ALLOC_FAILED"


def parse_batch(wanted: str) -> int | None:
    """`auto` is None. Raises UsageError for anything but that and a positive whole number."""
    if wanted == "auto":
        return None
    if not wanted.isascii() or not wanted.isdigit() or int(wanted) < 1:
        raise UsageError(f"--batch {wanted}: give auto, or a whole number of pictures from 1 up")
    return int(wanted)


class BatchLimit:
    """`size` items at once, None for all that are given; being out of memory halves it for good."""

    def __init__(self, size: int | None = None, of: str = "pictures") -> None:
        self.size = size
        self.of = of
        self.said = False

    def run(self, total: int, work: Callable[[int, int], R]) -> list[R]:
        """The results of work(start, stop) over 0 to `total`, in order. Raises: ModelError when one is too many."""
        results: list[R] = []
        start = 0
        while start < total:
            stop = min(total, start + (self.size or total))
            result = self._tried(work, start, stop)
            if result is not None:
                results.append(result)
                start = stop
        return results

    def _tried(self, work: Callable[[int, int], R], start: int, stop: int) -> R | None:
        try:
            return work(start, stop)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            if stop - start == 1:
                raise ModelError(
                    f"out of memory with one of the {self.of} at a time ({first_sentence(error)}); free some, use "
                    "--precision bf16, or fewer --scorers at once"
                ) from error
        free_memory()  # here, where the traceback no longer holds the tensors
        self._halve(stop - start)
        return None

    def _halve(self, tried: int) -> None:
        self.size = tried // 2
        if not self.said:
            self.said = True
            say(f"out of memory with {tried} {self.of} at once: going on with {self.size}, and with fewer if need be")


def score_within(
    limit: BatchLimit,
    score: Callable[[Pictures, list[tuple[int, str]], EmbeddedPrompts], Scored],
    pictures: Pictures,
    matched: list[tuple[int, str]],
    prompts: EmbeddedPrompts,
) -> Scored:
    """`score` over pieces of the pictures that memory holds, put together as if it had been called once."""

    def piece(start: int, stop: int) -> tuple[list[int], Scored]:
        own = [index for index, (row, _) in enumerate(matched) if start <= row < stop]
        within = [(matched[index][0] - start, matched[index][1]) for index in own]
        return own, score(rows_of(pictures, start, stop), within, prompts)

    count = count_of(pictures, matched)
    if count == 0:
        return score(pictures, matched, prompts)
    pieces = limit.run(count, piece)
    if len(pieces) == 1:
        return pieces[0][1]
    order = np.argsort(np.concatenate([own for own, _ in pieces]))
    embeddings = [found for _, (found, _) in pieces]
    scores = [found for _, (_, found) in pieces]
    return (
        {tower: torch.cat([found[tower] for found in embeddings]) for tower in embeddings[0]},
        {scorer: np.concatenate([found[scorer] for found in scores])[order] for scorer in scores[0]},
    )


def count_of(pictures: Pictures, matched: list[tuple[int, str]]) -> int:
    """How many pictures; where no tower looks at them, those that have a prompt."""
    if not pictures:
        return 1 + max((row for row, _ in matched), default=-1)
    return len(next(iter(pictures.values()))) if isinstance(pictures, dict) else len(pictures)


def rows_of(pictures: Pictures, start: int, stop: int) -> Pictures:
    """Some of the pictures."""
    if isinstance(pictures, dict):
        return {key: values[start:stop] for key, values in pictures.items()}
    return pictures[start:stop]


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
    best = _rate_or_none(rate, images)
    while best is None:
        if images == 1:
            raise ModelError("out of memory with one picture at a time; free some, or use --precision bf16")
        images //= 2
        best = _rate_or_none(rate, images)
    while images < MOST_IMAGES:
        doubled = _rate_or_none(rate, 2 * images)
        if doubled is None or doubled < best * (1 + LEAST_GAIN):
            break
        images, best = 2 * images, doubled
    return images


def probe(scoring: Scoring, device: str, images: int, seconds: float | None = None) -> float:
    """Pictures per second through every tower and scorer, from the device's memory, after one pass that warms up."""
    pictures, matched, prompts = made_up(scoring, device, images)
    scoring.score_at_once(pictures, matched, prompts)
    start, passes = time.perf_counter(), 0
    while passes == 0 or time.perf_counter() - start < (PROBE_SEC if seconds is None else seconds):
        scoring.score_at_once(pictures, matched, prompts)  # ends on the CPU: nothing is left under way
        passes += 1
    return images * passes / (time.perf_counter() - start)


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
    """Compile every tower's picture encoder, by one batch of random pixels, and say how long it took."""
    start = time.perf_counter()
    towers = [tower for tower in scoring.towers.values() if isinstance(tower, Compilable)]
    for tower in towers:
        if not isinstance(tower.image_features, StaticBatch):
            tower.image_features = StaticBatch(tower.image_features, scoring.limit)
    try:
        scoring.score_pictures(*made_up(scoring, device, images))
    except CurateError:
        raise
    except Exception as error:  # the compiler's many ways to fail: no C compiler, no Triton, an operator it lacks
        raise ModelError(f"torch.compile fails here ({first_sentence(error)}); run without --compile") from error
    say(f"compiled {len(towers)} {'tower' if len(towers) == 1 else 'towers'} in {time.perf_counter() - start:.0f} s")


def out_of_memory(error: BaseException) -> bool:
    """Whether torch, a CUDA library or the machine refused memory."""
    words = str(error)
    return isinstance(error, torch.OutOfMemoryError) or CUDA_LIBRARIES_REFUSE in words or CPU_REFUSES in words


def free_memory() -> None:
    """Give back what torch keeps for later."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def first_sentence(error: BaseException) -> str:
    """Of torch's long message."""
    return str(error).split(". ")[0].split("\n")[0].removesuffix(".")


def _rate_or_none(rate: Callable[[int], float], images: int) -> float | None:
    try:
        return rate(images)
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
    free_memory()
    return None
