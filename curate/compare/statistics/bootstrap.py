"""95 % intervals when pictures of one prompt are not independent: whole prompts are drawn with replacement.

Efron and Tibshirani, An Introduction to the Bootstrap, ch. 13: percentile intervals. The same draws serve every
number of a report, so their differences are those of one resample.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
SEED = 0
CHUNK_NUMBERS = 8_000_000  # weights made at once: 64 MB
KEPT_NUMBERS = 40_000_000  # weights kept between calls: 320 MB

Floats = NDArray[np.float64]


class Resamples:
    """How often each of `prompts` prompts occurs in each of `count` draws of as many prompts."""

    def __init__(self, prompts: int, count: int = RESAMPLES, seed: int = SEED) -> None:
        self.prompts, self.count, self.seed = prompts, count, seed
        self._kept: list[Floats] | None = None

    def sums(self, values: Floats, rows: NDArray[np.int64] | None = None) -> Floats:
        """(count, k): each draw's sum of `values` (prompts, k) over the prompts drawn, or over `rows` of them alone."""
        if rows is None:
            return np.concatenate([weights @ values for weights in self._weights()])
        return np.concatenate([weights[:, rows] @ values[rows] for weights in self._weights()])

    def _weights(self) -> Iterator[Floats]:
        if self._kept is not None:
            yield from self._kept
            return
        keep = self.count * self.prompts <= KEPT_NUMBERS
        made: list[Floats] = []
        random = np.random.default_rng(self.seed)
        chunk = max(1, CHUNK_NUMBERS // self.prompts)
        for start in range(0, self.count, chunk):
            draws = min(chunk, self.count - start)
            drawn = random.integers(0, self.prompts, (draws, self.prompts))
            drawn += self.prompts * np.arange(draws)[:, None]
            weights = np.bincount(drawn.ravel(), minlength=draws * self.prompts).reshape(draws, -1).astype(np.float64)
            if keep:
                made.append(weights)
            yield weights
        self._kept = made if keep else None


def by_prompt(prompt: NDArray[np.int64], values: Floats, column: NDArray[np.int64], shape: tuple[int, int]) -> Floats:
    """(prompts, columns): the sum of `values` of each prompt and column."""
    sums = np.bincount(prompt * shape[1] + column, values, shape[0] * shape[1])
    return sums.astype(np.float64).reshape(shape)


def ratio_intervals(sums: Floats, sizes: Floats) -> list[tuple[float, float]]:
    """95 % percentile interval of each column of sums / sizes; draws that hold nothing of a column do not count.

    sums, sizes: (draws, k). A column without any is (nan, nan).
    """
    with np.errstate(invalid="ignore"):
        ratios = np.where(sizes > 0, sums / sizes, np.nan)
    return [interval(column) for column in ratios.T]


def interval(values: Floats) -> tuple[float, float]:
    """The 2.5 and 97.5 % quantiles of what is finite."""
    values = values[np.isfinite(values)]
    if not len(values):
        return np.nan, np.nan
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)


def clustered_interval(values: Floats, cluster: NDArray[np.int64], resamples: int) -> tuple[float, float]:
    """The interval of the mean of `values` (n,) when whole clusters, integers 0..k-1, are drawn."""
    count = int(cluster.max()) + 1
    both = np.stack([np.bincount(cluster, one, count) for one in (values, np.ones(len(values)))], axis=1)
    sums = Resamples(count, resamples).sums(both.astype(np.float64))
    return ratio_intervals(sums[:, :1], sums[:, 1:])[0]
