"""The hidden truth: how far a picture is from a perfect drawing of its prompt.

    truth(picture, prompt) = - min over j of  sqrt( mean over pixels and channels of (picture - drawing_j)^2 )

with RGB in [0, 1], so truth lies in [-1, 0] and 0 is perfect. drawing_j runs over the prompt's scene
with every thing placed at 9 x 9 offsets of up to 2.5 px and 3 radii within 10 %. Things of a scene never
share a pixel, so the minimum over all combinations is the sum of each thing's own minimum. With d =
picture - background, c = colour - background and a = a thing's coverage of the pixels:

    sum (picture - drawing)^2 = sum d^2 + sum over things of min_j [ |c|^2 sum a_j^2 - 2 sum a_j (d . c) ]

Only the simulated annotators see it, and this judge: it chose no pair and trained no scorer's choice.

    python -m benchmarks.demo_world.truth run/samples/pairs.parquet
"""

import argparse
import io
import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from benchmarks.demo_world.degrade import from_image
from benchmarks.demo_world.scenes import (
    BACKGROUNDS,
    COLOURS,
    IMAGE_SIZE_PX,
    POSITION_JITTER_PX,
    RADIUS_JITTER,
    SIZE_RADII_PX,
    Picture,
    parse_caption,
    shape_alpha,
)

OFFSETS = np.linspace(-1, 1, 9)
RADIUS_STEPS = (-1.0, 0.0, 1.0)
WINDOW_PX = 32  # a thing at any jitter fits a window of this side around its centre
BOOTSTRAP_DRAWS = 10_000


@dataclass(frozen=True)
class WinRate:
    """Share of pairs in which side 0 beats side 1 (a tie counts half), with a bootstrap interval."""

    pairs: int
    prompts: int
    win_rate: float
    ci_low: float
    ci_high: float
    mean_0: float
    mean_1: float


def truth(picture: Picture, prompt: str) -> float:
    """Minus the root mean square distance to the nearest perfect drawing, in [-1, 0].

    Raises: ValueError when the prompt is not of the demo's grammar.
    """
    scene = parse_caption(prompt)
    background = BACKGROUNDS[scene.background]
    difference = picture - background
    squares = float(np.square(difference).sum())
    for thing, centre_px in zip(scene.things, scene.centres_px, strict=True):
        contrast = COLOURS[thing.colour] - background
        coverages, coverage_squares = coverage_bank(thing.shape, SIZE_RADII_PX[thing.size], centre_px)
        projected = window_around(difference @ contrast, centre_px).ravel()
        change = np.square(contrast).sum() * coverage_squares - 2 * coverages @ projected
        squares += float(change.min())
    return -float(np.sqrt(max(squares, 0.0) / difference.size))


@lru_cache(maxsize=64)  # 5 shapes x 2 sizes x 5 places fill 50 entries of 1 MB
def coverage_bank(
    shape: str, radius_px: float, centre_px: tuple[float, float]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Coverages of a thing at every jitter in its window, (243, 1024), and their sums of squares, (243,)."""
    coverages = [
        window_around(
            shape_alpha(
                shape,
                centre_px[0] + POSITION_JITTER_PX * dx,
                centre_px[1] + POSITION_JITTER_PX * dy,
                radius_px * (1 + RADIUS_JITTER * dr),
            ),
            centre_px,
        ).ravel()
        for dx in OFFSETS
        for dy in OFFSETS
        for dr in RADIUS_STEPS
    ]
    bank = np.stack(coverages)
    return bank, np.square(bank).sum(axis=1)


def window_around(plane: NDArray[np.float32], centre_px: tuple[float, float]) -> NDArray[np.float32]:
    """The part of a (64, 64) plane that a thing centred there can touch, (32, 32)."""
    left, top = (int(centre) - WINDOW_PX // 2 for centre in centre_px)
    return plane[top : top + WINDOW_PX, left : left + WINDOW_PX]


def truth_of_bytes(encoded: bytes, prompt: str) -> float:
    """The truth of an encoded image; other sizes are brought to 64 px first."""
    image = Image.open(io.BytesIO(encoded)).convert("RGB")
    if image.size != (IMAGE_SIZE_PX, IMAGE_SIZE_PX):
        image = image.resize((IMAGE_SIZE_PX, IMAGE_SIZE_PX), Image.Resampling.LANCZOS)
    return truth(from_image(image), prompt)


def win_rate(scores: NDArray[np.float64], prompts: list[str], seed: int = 0) -> WinRate:
    """Bootstrap over prompts, because pairs of one prompt are not independent.

    scores: (pairs, 2), side 0 and side 1.
    """
    wins = (scores[:, 0] > scores[:, 1]) + 0.5 * (scores[:, 0] == scores[:, 1])
    _, index = np.unique(np.array(prompts), return_inverse=True)
    wins_of_prompt, pairs_of_prompt = np.bincount(index, wins), np.bincount(index)
    rng = np.random.default_rng(seed)
    draws = rng.integers(len(pairs_of_prompt), size=(BOOTSTRAP_DRAWS, len(pairs_of_prompt)))
    rates = wins_of_prompt[draws].sum(axis=1) / pairs_of_prompt[draws].sum(axis=1)
    low, high = np.quantile(rates, [0.025, 0.975])
    means = scores.mean(axis=0)
    return WinRate(
        len(wins), len(pairs_of_prompt), float(wins.mean()), float(low), float(high), float(means[0]), float(means[1])
    )


def judge_sampled_pairs(path: Path) -> WinRate:
    """The truth's win rate of side 0 over side 1 in a Parquet of `schemas.tables.SAMPLED_PAIRS`."""
    rows = pq.read_table(path, columns=["prompt", "image_0_path", "image_1_path"]).to_pylist()
    scores = np.array([[_truth_of_side(path, row, side) for side in (0, 1)] for row in rows])
    return win_rate(scores, [row["prompt"] for row in rows])


def _truth_of_side(path: Path, row: dict[str, str], side: int) -> float:
    return truth_of_bytes((path.parent / row[f"image_{side}_path"]).read_bytes(), row["prompt"])


def main() -> None:
    """Print the win rate as one line for people, then one JSON line."""
    parser = argparse.ArgumentParser(description="Judge sampled pairs by the demo world's hidden truth.")
    parser.add_argument("pairs", type=Path, help="Parquet of sampled pairs, written by `train sample`")
    result = judge_sampled_pairs(parser.parse_args().pairs)
    print(
        f"hidden truth: side 0 wins {result.win_rate:.1%} of {result.pairs} pairs over {result.prompts} prompts "
        f"(95 % interval {result.ci_low:.1%} to {result.ci_high:.1%}); "
        f"mean {result.mean_0:.4f} against {result.mean_1:.4f}"
    )
    print(json.dumps(asdict(result)))


if __name__ == "__main__":
    main()
