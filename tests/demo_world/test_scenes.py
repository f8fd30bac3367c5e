"""The grammar reads back what it writes, and the renderer draws what was said."""

import numpy as np
import pytest

from benchmarks.demo_world.prompts import choose_prompts
from benchmarks.demo_world.scenes import (
    BACKGROUNDS,
    COLOURS,
    SHAPES,
    Scene,
    Thing,
    edit_scene,
    parse_caption,
    random_scene,
    render,
    shape_alpha,
)


def test_caption_reads_back() -> None:
    rng = np.random.default_rng(0)
    for scene in (random_scene(rng) for _ in range(200)):
        assert parse_caption(scene.caption) == scene
        assert edit_scene(rng, scene) != scene


def test_caption_wording() -> None:
    scene = Scene((Thing("large", "red", "circle"), Thing("small", "blue", "square")), "above", "white")
    assert scene.caption == "a large red circle above a small blue square on a white background"


@pytest.mark.parametrize(
    "text", ["", "a cat", "a large red circle on a red background", "a red circle on a white background"]
)
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a caption of the demo's grammar"):
        parse_caption(text)


def test_things_land_where_the_relation_says() -> None:
    scene = Scene((Thing("large", "red", "square"), Thing("large", "blue", "square")), "above", "white")
    picture = render(scene)
    np.testing.assert_allclose(picture[16, 32], COLOURS["red"], atol=1e-6)
    np.testing.assert_allclose(picture[48, 32], COLOURS["blue"], atol=1e-6)
    np.testing.assert_allclose(picture[0, 0], BACKGROUNDS["white"], atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_jittered_things_stay_in_their_half(shape: str) -> None:
    rng = np.random.default_rng(1)
    scene = Scene((Thing("large", "red", shape),) * 2, "left of", "white")
    for _ in range(20):
        picture = render(scene, rng)
        middle = picture[:, 31:33] - BACKGROUNDS["white"]
        assert np.abs(middle).max() < 0.5  # an antialiased rim at most
        assert picture.shape == (64, 64, 3)
        assert 0 <= picture.min() <= picture.max() <= 1


@pytest.mark.parametrize("shape", SHAPES)
def test_edges_are_antialiased(shape: str) -> None:
    alpha = shape_alpha(shape, 32.3, 31.6, 12.0)
    assert ((alpha > 0.05) & (alpha < 0.95)).any()
    assert alpha.max() == 1.0


def test_prompts_are_unique_disjoint_and_reproducible() -> None:
    train, heldout = choose_prompts(5)
    assert (train, heldout) == choose_prompts(5)
    assert len(set(train) | set(heldout)) == len(train) + len(heldout) == 800
