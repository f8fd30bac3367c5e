"""How strong each of many models is, by who wins against whom: P(i beats j) = sigmoid(s_i - s_j).

Bradley and Terry, Biometrika 39, 1952; a tie is half a win of each. A weak prior, normal with a standard deviation
of 10, keeps the strength of a model that always wins finite, and moves others by less than their interval.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components

PRIOR_PRECISION = 0.01
MOST_STEPS, STEP_AT_MOST, TOLERANCE = 60, 3.0, 1e-9

Floats = NDArray[np.float64]


def strengths(wins: Floats) -> Floats:
    """Strengths with mean 0, in logits, (..., m); wins: (..., m, m), how often each row's model beat each column's.

    Newton's method on the penalised likelihood, over all leading dimensions at once.
    """
    games = wins + wins.swapaxes(-1, -2)
    identity = np.eye(wins.shape[-1])
    found = np.zeros(wins.shape[:-1])
    for _ in range(MOST_STEPS):
        chance = 1 / (1 + np.exp(found[..., None, :] - found[..., :, None]))
        slope = (wins - games * chance).sum(axis=-1) - PRIOR_PRECISION * found
        weight = games * chance * (1 - chance)
        curvature = identity * (weight.sum(axis=-1) + PRIOR_PRECISION)[..., None] - weight
        step = np.clip(np.linalg.solve(curvature, slope[..., None])[..., 0], -STEP_AT_MOST, STEP_AT_MOST)
        found = found + step
        if np.abs(step).max(initial=0.0) < TOLERANCE:
            break
    return np.asarray(found - found.mean(axis=-1, keepdims=True))


def comparable(wins: Floats) -> bool:
    """Whether every two models are compared, directly or by way of others; wins: (m, m)."""
    return int(connected_components(wins + wins.T, directed=False)[0]) == 1
