"""How likely a human judgement is right, by all scorers together: a Bradley-Terry model of the judgements.

P(the human prefers a over b) = sigmoid(sum over scorers of weight * (score of a - score of b)): logistic
regression on margins without an intercept (Bradley and Terry, Biometrika 39, 1952; the same likelihood trains
reward models, e.g. PickScore's). The log-odds of a judgement are that sum with the preferred image as a.
"""

from dataclasses import asdict, dataclass
from typing import Any

import duckdb
import numpy as np

from curate.database.queries import query_text

RIDGE = 1.0
"""L2 penalty on the weights of margins in units of their root mean square: keeps them finite where all agree."""
MOST_PAIRS = 2_000_000
"""More pairs than this are fitted on a sample of about so many, chosen by a hash of pair_id."""
BINS = 10


@dataclass(frozen=True)
class CalibrationBin:
    """Held-out pairs whose likelier side was given a probability in [low, high): is it right that often?"""

    low: float
    high: float
    pairs: int
    predicted: float  # mean probability of the likelier side
    observed: float  # share of humans who preferred it


@dataclass(frozen=True)
class Calibration:
    """weights: log-odds per unit of each scorer's margin. Held-out figures are None when one half has no prompt."""

    weights: dict[str, float]
    pairs: int
    held_out_accuracy: float | None
    held_out_log_loss: float | None
    bins: list[CalibrationBin]

    def report(self) -> dict[str, Any]:
        """As TOML or JSON takes it: absent figures are left out."""
        return {key: value for key, value in asdict(self).items() if value is not None}


def calibrate(connection: duckdb.DuckDBPyConnection, scorers: list[str]) -> Calibration:
    """Fit on all pairs of the view `pair_scores` that have every margin; test on prompts held out.

    Two folds by prompt: each half is judged by weights from the other, so no prompt is in both. The weights
    returned are fitted on both halves together.
    """
    query = query_text("rank/margins", scorer=scorers)
    found = connection.execute(query, {"most_pairs": MOST_PAIRS}).fetchnumpy()
    margins = np.column_stack([np.ma.filled(found[f"{scorer}_margin"], np.nan) for scorer in scorers])
    fold = np.asarray(found["fold"])
    weights = fit_weights(margins)
    log_odds = np.concatenate([margins[fold == k] @ fit_weights(margins[fold != k]) for k in (0, 1)])
    held_out = len(log_odds) if fold.min(initial=1) != fold.max(initial=0) else 0
    return Calibration(
        weights=dict(zip(scorers, weights.tolist(), strict=True)),
        pairs=len(margins),
        held_out_accuracy=float(agreement(log_odds).mean()) if held_out else None,
        held_out_log_loss=float(np.logaddexp(0, -log_odds).mean()) if held_out else None,
        bins=calibration_bins(log_odds) if held_out else [],
    )


def fit_weights(margins: np.ndarray) -> np.ndarray:
    """(n, scorer) margins of judgements -> (scorer,) log-odds per unit of margin; zeros where nothing is known."""
    from sklearn.linear_model import LogisticRegression  # loads in a second, and few commands need it

    scale = np.sqrt(np.square(margins).mean(axis=0)) if len(margins) else np.zeros(margins.shape[1])
    if not scale.any():
        return np.zeros(margins.shape[1])
    units = np.divide(margins, scale, out=np.zeros_like(margins), where=scale > 0)
    # Turning a judgement round, its margins negated and the other side preferred, changes nothing in a model without
    # an intercept. Every other one is turned, so that the solver sees two classes; a single one is counted twice.
    twice = 2 if len(units) == 1 else 1
    turned = np.arange(len(units) * twice) % 2 == 1
    model = LogisticRegression(C=1 / (RIDGE * twice), fit_intercept=False, solver="newton-cholesky", tol=1e-8)
    model.fit(np.where(turned[:, None], -1, 1) * units, ~turned)
    return np.divide(model.coef_[0], scale, out=np.zeros(len(scale)), where=scale > 0)


def agreement(log_odds: np.ndarray) -> np.ndarray:
    """1 where the scorers together agree with the human, 0 where not, 1/2 where they are indifferent."""
    return (log_odds > 0) + 0.5 * (log_odds == 0)


def calibration_bins(log_odds: np.ndarray) -> list[CalibrationBin]:
    """Equal bins of the likelier side's probability, from 1/2 to 1; empty bins are left out."""
    likelier = 1 / (1 + np.exp(-np.abs(log_odds)))
    edges = np.linspace(0.5, 1, BINS + 1)
    which = np.minimum(np.searchsorted(edges, likelier, side="right") - 1, BINS - 1)
    right = agreement(log_odds)
    return [
        CalibrationBin(
            low=float(edges[k]),
            high=float(edges[k + 1]),
            pairs=int((which == k).sum()),
            predicted=float(likelier[which == k].mean()),
            observed=float(right[which == k].mean()),
        )
        for k in range(BINS)
        if (which == k).any()
    ]
