"""The map is the same each time, keeps neighbours together, and takes any number of prompts."""

import numpy as np
import pytest

from curate.report.prompt_map import project


def clusters(count: int) -> np.ndarray:
    """Two far groups of `count` points each, in 16 dimensions."""
    random = np.random.default_rng(0)
    return np.concatenate([random.normal(size=(count, 16)), random.normal(size=(count, 16)) + 30]).astype(np.float32)


@pytest.mark.parametrize(("count", "method"), [(10, "principal component analysis"), (40, "t-SNE, perplexity 26.3333")])
def test_groups_stay_apart(count: int, method: str) -> None:
    points, words = project(clusters(count))
    assert words.startswith(method)
    assert points.shape == (2 * count, 2)
    one, two = points[:count], points[count:]
    within = np.linalg.norm(one - one.mean(axis=0), axis=1).max()
    assert np.linalg.norm(one.mean(axis=0) - two.mean(axis=0)) > within


def test_it_is_the_same_each_time() -> None:
    np.testing.assert_array_equal(project(clusters(30))[0], project(clusters(30))[0])


@pytest.mark.parametrize(
    "embeddings", [np.ones((1, 4)), np.full((50, 4), 0.1), 1 + 1e-7 * np.eye(50), np.arange(3.0).reshape(3, 1)]
)
def test_degenerate_prompts_lie_on_one_point(embeddings: np.ndarray) -> None:
    points, words = project(embeddings.astype(np.float32))
    np.testing.assert_array_equal(points, np.zeros((len(embeddings), 2)))
    assert words == "all prompts alike"
