"""Intervals over prompts, against naive ones."""

import numpy as np
import pytest

from curate.compare.statistics import bootstrap
from curate.compare.statistics.bootstrap import Resamples, by_prompt, clustered_interval, ratio_intervals


def test_the_interval_equals_a_naive_cluster_bootstrap() -> None:
    random = np.random.default_rng(1)
    cluster = np.repeat(np.arange(40), random.integers(1, 6, 40))
    values = random.normal(size=len(cluster)) + np.repeat(random.normal(size=40), np.bincount(cluster))
    low, high = clustered_interval(values, cluster, 10_000)
    means = []
    for _ in range(4000):
        drawn = random.integers(0, 40, 40)
        means.append(np.concatenate([values[cluster == one] for one in drawn]).mean())
    assert (low, high) == pytest.approx(tuple(np.quantile(means, (0.025, 0.975))), abs=0.03)


def test_pictures_of_one_prompt_do_not_narrow_the_interval() -> None:
    """Ten copies of each prompt's outcome carry no more news than one."""
    points = np.random.default_rng(0).integers(0, 2, 50).astype(float)
    once = clustered_interval(points, np.arange(50), 5000)
    repeated = clustered_interval(np.repeat(points, 10), np.repeat(np.arange(50), 10), 5000)
    assert repeated == pytest.approx(once, abs=1e-9)


def test_draws_are_the_same_however_they_are_cut_and_whether_they_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=(7, 3))
    kept = Resamples(7, 50)
    first, again = kept.sums(values), kept.sums(values)
    assert np.array_equal(first, again)
    assert (kept.sums(np.ones((7, 1))) == 7).all()  # each draw takes as many prompts as there are
    monkeypatch.setattr(bootstrap, "CHUNK_NUMBERS", 70)
    monkeypatch.setattr(bootstrap, "KEPT_NUMBERS", 0)
    assert np.allclose(Resamples(7, 50).sums(values), first)


def test_rows_are_a_part_of_the_sum() -> None:
    values = np.random.default_rng(0).normal(size=(7, 3))
    draws, some, rest = Resamples(7, 50), np.array([0, 2, 5]), np.array([1, 3, 4, 6])
    assert np.allclose(draws.sums(values, some) + draws.sums(values, rest), draws.sums(values))


def test_what_is_never_drawn_has_no_interval() -> None:
    sums, sizes = np.zeros((10, 2)), np.stack([np.zeros(10), np.ones(10)], axis=1)
    (low, high), known = ratio_intervals(sums, sizes)
    assert np.isnan(low)
    assert np.isnan(high)
    assert known == (0, 0)


def test_sums_by_prompt_and_column() -> None:
    found = by_prompt(np.array([0, 0, 1]), np.array([1.0, 2.0, 4.0]), np.array([1, 1, 0]), (2, 2))
    assert found.tolist() == [[0, 3], [4, 0]]
