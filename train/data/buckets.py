"""Aspect-ratio buckets: pictures keep about their shape, and a micro-batch is of one shape.

A pair goes to the shape nearest to its preferred image's, and both sides are cut to it. An image that stands in
pairs of several shapes is encoded for each of them.
"""

import math
from dataclasses import replace

from train.data.latents import read_image
from train.data.pairs import Pair, PairSet, ShapePx, SizePx

MAX_ASPECT_RATIO = 2.0  # long side over short side, of the shapes on offer
STEPS_PER_SIDE = 16  # shapes differ by about this part of the square's side


def shapes(resolution_px: int, multiple_px: int) -> list[ShapePx]:
    """Shapes of at most the area of the square of `resolution_px`, their sides multiples of `multiple_px`."""
    step = multiple_px * max(1, resolution_px // STEPS_PER_SIDE // multiple_px)
    found = {(resolution_px, resolution_px)}
    for width in range(step, int(resolution_px * MAX_ASPECT_RATIO) + 1, step):
        height = resolution_px**2 // width // step * step
        if height and max(width, height) <= MAX_ASPECT_RATIO * min(width, height):
            found.add((height, width))
    return sorted(found)


def nearest(size_px: SizePx, offered: list[ShapePx]) -> ShapePx:
    """The shape whose proportions are the nearest, the larger one of two alike."""
    ratio = math.log(size_px[0] / size_px[1])
    return min(offered, key=lambda shape: (abs(math.log(shape[1] / shape[0]) - ratio), -shape[0] * shape[1]))


def bucketed(pairs: PairSet, resolution_px: int, multiple_px: int) -> PairSet:
    """The pairs, with an image for each shape that it is cut to. Raises: ShardError."""
    offered = shapes(resolution_px, multiple_px)
    found: dict[tuple[int, ShapePx], int] = {}
    placed = []
    for pair in pairs.pairs:
        size_px = pairs.sizes_px[pair.preferred] or read_image(pairs, pair.preferred).size
        shape = nearest(size_px, offered)
        sides = [found.setdefault((image, shape), len(found)) for image in (pair.preferred, pair.rejected)]
        placed.append(Pair(pair.prompt, *sides))
    return replace(
        pairs,
        pairs=placed,
        images=[pairs.images[image] for image, _ in found],
        hashes=[pairs.hashes[image] for image, _ in found],
        sizes_px=[pairs.sizes_px[image] for image, _ in found],
        shapes_px=[shape for _, shape in found],
    )
