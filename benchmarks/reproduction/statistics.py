"""Means over seeds with 95 % intervals, and differences paired by seed."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and its two-sided 95 % interval by Student's t; without an interval for a single seed."""

    mean: float
    low: float
    high: float
    seeds: int

    @property
    def sign(self) -> int:
        """1 or -1 where the interval lies on one side of zero, else 0."""
        return int(self.low > 0) - int(self.high < 0)

    def __str__(self) -> str:
        if self.seeds < 2:
            return f"{self.mean:+.2f}"
        return f"{self.mean:+.2f} ({self.low:+.2f} .. {self.high:+.2f})"


def estimate(values: Sequence[float]) -> Estimate:
    """Mean of one value per seed. Raises: ValueError without values."""
    if not len(values):
        raise ValueError("there is nothing to take a mean of")
    mean, count = float(np.mean(values)), len(values)
    if count == 1:
        return Estimate(mean, float("-inf"), float("inf"), 1)
    half = float(student.ppf(0.5 + CONFIDENCE / 2, count - 1) * np.std(values, ddof=1) / np.sqrt(count))
    return Estimate(mean, mean - half, mean + half, count)


def paired_difference(values: dict[int, float], against: dict[int, float]) -> Estimate | None:
    """The mean over common seeds of value - against, which share judgements, scores and noise; None without any."""
    common = sorted(values.keys() & against.keys())
    return estimate([values[seed] - against[seed] for seed in common]) if common else None
