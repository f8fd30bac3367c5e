"""Which captions teach the demo and which are held out to judge it."""

import numpy as np

from benchmarks.demo_world.scenes import random_scene

TRAIN_PROMPTS = 600
HELDOUT_PROMPTS = 200


def choose_prompts(seed: int) -> tuple[list[str], list[str]]:
    """(prompts to be judged, prompts held out): unique, disjoint, in the order drawn."""
    rng = np.random.default_rng(seed)
    captions: dict[str, None] = {}  # a dict keeps the order
    while len(captions) < TRAIN_PROMPTS + HELDOUT_PROMPTS:
        captions.setdefault(random_scene(rng).caption)
    chosen = list(captions)
    return chosen[:TRAIN_PROMPTS], chosen[TRAIN_PROMPTS:]
