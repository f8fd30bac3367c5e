"""Strengths against a logistic regression of another library."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from curate.compare.statistics.bradley_terry import PRIOR_PRECISION, comparable, strengths

WINS = np.array([[0, 30, 45, 20], [10, 0, 25.5, 8], [5, 14.5, 0, 7], [20, 22, 33, 0]], float)


def by_logistic_regression(wins: np.ndarray) -> np.ndarray:
    """One row for every ordered pair of models: +1 for the winner, -1 for the loser, as often as it happened."""
    rows, labels, weights = [], [], []
    for one in range(len(wins)):
        for two in range(len(wins)):
            row = np.zeros(len(wins))
            row[one], row[two] = 1, -1
            rows += [row, -row]
            labels += [1, 0]
            weights += [wins[one, two]] * 2
    fitted = LogisticRegression(C=1 / (2 * PRIOR_PRECISION), fit_intercept=False, tol=1e-10, max_iter=1000)
    found = fitted.fit(np.array(rows), labels, sample_weight=np.array(weights)).coef_[0]
    return np.asarray(found - found.mean())


def test_strengths_are_those_of_a_logistic_regression() -> None:
    assert strengths(WINS) == pytest.approx(by_logistic_regression(WINS), abs=1e-3)
    assert strengths(WINS).sum() == pytest.approx(0)


def test_two_models_differ_by_the_log_odds() -> None:
    one, two = strengths(np.array([[0, 75.0], [25.0, 0]]))
    assert one - two == pytest.approx(np.log(3), abs=1e-3)


def test_many_matrices_at_once_are_each_by_itself() -> None:
    many = np.stack([WINS, WINS.T, WINS * 3])
    assert np.allclose(strengths(many), [strengths(one) for one in many])


def test_a_model_that_always_wins_is_strong_but_finite() -> None:
    found = strengths(np.array([[0, 1000, 1000], [0, 0, 500], [0, 500, 0]], float))
    assert np.isfinite(found).all()
    assert found[0] - found[1] > 5
    assert found[1] == pytest.approx(found[2])


def test_models_that_never_meet_are_not_comparable() -> None:
    apart = np.zeros((4, 4))
    apart[0, 1] = apart[2, 3] = 5
    assert not comparable(apart)
    apart[1, 2] = 1
    assert comparable(apart)
