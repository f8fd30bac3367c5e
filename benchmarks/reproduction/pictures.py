"""Pictures of the reproduction: the demo's scenes at 16 x 16 px, their prompts as numbers, and the hidden truth.

Scenes, drawings and truth are `benchmarks.demo_world`'s, brought from 64 px to 16 px by area means. Drawing and
truth are linear in how much of a pixel a thing covers, so the means of the coverages are all that changes.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from benchmarks.demo_world.scenes import (
    BACKGROUNDS,
    COLOURS,
    IMAGE_SIZE_PX,
    RELATION_CENTRES_PX,
    SHAPES,
    SIZE_RADII_PX,
    Scene,
    parse_caption,
    random_scene,
    render,
)
from benchmarks.demo_world.truth import WINDOW_PX, coverage_bank

SIDE_PX = 16
FACTOR = IMAGE_SIZE_PX // SIDE_PX
LATENT_SCALE = 3.0  # RGB less one half, times this, has a standard deviation of about 1

Pictures = Float[np.ndarray, "picture 16 16 3"]  # RGB in [0, 1]

SLOTS: tuple[tuple[str, ...], ...] = (
    *(words for _ in range(2) for words in (tuple(SIZE_RADII_PX), tuple(COLOURS), SHAPES)),
    tuple(RELATION_CENTRES_PX),
    tuple(BACKGROUNDS),
)
TOKENS, TOKEN_WIDTH = len(SLOTS), max(map(len, SLOTS))


def draw_scenes(rng: np.random.Generator, scenes: Sequence[Scene]) -> Pictures:
    """Perfect drawings, jittered in place and size."""
    return np.stack([_shrunk(render(scene, rng)) for scene in scenes])


def _shrunk(picture: Float[np.ndarray, "64 64 3"]) -> Float[np.ndarray, "16 16 3"]:
    return picture.reshape(SIDE_PX, FACTOR, SIDE_PX, FACTOR, 3).mean(axis=(1, 3))


def unique_captions(rng: np.random.Generator, count: int) -> list[str]:
    """Different captions, in the order drawn."""
    captions: dict[str, None] = {}
    while len(captions) < count:
        captions.setdefault(random_scene(rng).caption)
    return list(captions)


def embed_captions(captions: Sequence[str]) -> Float[np.ndarray, "prompt 8 6"]:
    """One token for each word of a caption, its word as a one-hot vector; all zeros where there is none."""
    embedded = np.zeros((len(captions), TOKENS, TOKEN_WIDTH), np.float32)
    for row, caption in zip(embedded, captions, strict=True):
        for token, (words, word) in zip(row, zip(SLOTS, _words(caption), strict=True), strict=True):
            if word is not None:
                token[words.index(word)] = 1
    return embedded


def _words(caption: str) -> list[str | None]:
    """The word of each slot; an empty caption has none."""
    if caption == "":
        return [None] * TOKENS
    scene = parse_caption(caption)
    things = [(thing.size, thing.colour, thing.shape) for thing in scene.things]
    second = things[1] if len(things) == 2 else (None, None, None)
    return [*things[0], *second, scene.relation, scene.background]


def truths(pictures: Pictures, captions: Sequence[str]) -> Float[np.ndarray, " picture"]:
    """The hidden truth of each picture: minus the root mean square distance to the nearest perfect drawing of its
    caption, in per cent of the range of RGB: 0 is perfect, -100 the worst. See `demo_world.truth` for the formula.
    """
    return np.array([_truth(picture, parse_caption(one)) for picture, one in zip(pictures, captions, strict=True)])


def _truth(picture: Float[np.ndarray, "16 16 3"], scene: Scene) -> float:
    background = BACKGROUNDS[scene.background]
    difference = picture - background
    squares = float(np.square(difference).sum())
    for thing, centre_px in zip(scene.things, scene.centres_px, strict=True):
        contrast = COLOURS[thing.colour] - background
        coverages, coverage_squares = _bank(thing.shape, SIZE_RADII_PX[thing.size], centre_px)
        left, top = (int(centre - WINDOW_PX / 2) // FACTOR for centre in centre_px)
        window = difference[top : top + WINDOW_PX // FACTOR, left : left + WINDOW_PX // FACTOR]
        change = np.square(contrast).sum() * coverage_squares - 2 * coverages @ (window @ contrast).ravel()
        squares += float(change.min())
    return -100 * float(np.sqrt(max(squares, 0.0) / difference.size))


@lru_cache(maxsize=64)
def _bank(
    shape: str, radius_px: float, centre_px: tuple[float, float]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Coverages of a thing at every jitter, (243, 64), and their sums of squares, (243,)."""
    coverages, _ = coverage_bank(shape, radius_px, centre_px)
    side = WINDOW_PX // FACTOR
    shrunk = coverages.reshape(-1, side, FACTOR, side, FACTOR).mean(axis=(2, 4)).reshape(len(coverages), -1)
    return shrunk, np.square(shrunk).sum(axis=1)


def colourfulness(pictures: Pictures) -> Float[np.ndarray, " picture"]:
    """The mean over pixels of the greatest less the least of R, G and B, in [0, 1]: nothing to do with the caption."""
    return (pictures.max(axis=-1) - pictures.min(axis=-1)).mean(axis=(1, 2))
