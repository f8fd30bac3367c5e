import numpy as np
import pytest

from benchmarks.demo_world import truth as demo_truth
from benchmarks.demo_world.scenes import IMAGE_SIZE_PX, parse_caption, random_scene, render
from benchmarks.reproduction.pictures import (
    SLOTS,
    TOKENS,
    colourfulness,
    draw_scenes,
    embed_captions,
    truths,
    unique_captions,
)

CAPTION = "a large red circle above a small blue ring on a white background"


def test_the_mean_drawing_is_all_but_perfect_and_another_scene_is_not() -> None:
    rng = np.random.default_rng(0)
    scenes = [random_scene(rng) for _ in range(30)]
    captions, pictures = [scene.caption for scene in scenes], draw_scenes(rng, scenes)
    own = truths(pictures, captions)
    # A jittered radius lies up to 5 % from one of the bank, and places up to a quarter of a px.
    assert own.max() <= 0
    assert own.min() > -4
    assert (truths(pictures, captions[1:] + captions[:1]) < own).all()


def test_the_truth_is_the_least_distance_over_all_drawings() -> None:
    """A scene of one thing: every drawing of the demo's bank, shrunk, compared one by one."""
    caption = "a small green cross on a pink background"
    scene, rng = parse_caption(caption), np.random.default_rng(1)
    picture = rng.random((16, 16, 3), dtype=np.float32)
    least = np.inf
    for dx in demo_truth.OFFSETS:
        for dy in demo_truth.OFFSETS:
            for dr in demo_truth.RADIUS_STEPS:
                fixed = _Fixed([dx, dy, dr])
                large = render(scene, fixed)  # type: ignore[arg-type]
                small = large.reshape(16, 4, 16, 4, 3).mean(axis=(1, 3))
                least = min(least, float(np.sqrt(np.square(picture - small).mean())))
    assert truths(picture[None], [caption])[0] == pytest.approx(-100 * least, abs=1e-3)


class _Fixed:
    """Stands for the generator that jitters: gives the offsets asked for."""

    def __init__(self, values: list[float]) -> None:
        self.values = values

    def uniform(self, low: float, high: float, size: int) -> np.ndarray:
        return np.array(self.values[:size])


def test_worst_and_grey() -> None:
    white = np.ones((1, 16, 16, 3), np.float32)
    assert truths(white, ["a small red circle on a black background"])[0] < -80
    assert colourfulness(white).tolist() == [0.0]
    red = white * np.array([1, 0, 0], np.float32)
    assert colourfulness(red).tolist() == [1.0]


def test_captions_become_one_word_a_token() -> None:
    two, one, empty = embed_captions([CAPTION, "a small red circle on a white background", ""])
    assert two.shape[0] == TOKENS
    assert two.sum(axis=1).tolist() == [1.0] * TOKENS
    assert one.sum(axis=1).tolist() == [1, 1, 1, 0, 0, 0, 0, 1]  # no second thing, no relation
    assert empty.sum() == 0
    words = [SLOTS[slot][int(token.argmax())] for slot, token in enumerate(two)]
    assert words == ["large", "red", "circle", "small", "blue", "ring", "above", "white"]


def test_captions_are_unique() -> None:
    captions = unique_captions(np.random.default_rng(0), 400)
    assert len(set(captions)) == 400
    assert IMAGE_SIZE_PX == 4 * 16
