"""What scores do not show: how far a prompt's pictures lie apart, and how far a model has gone from its base.

Distances are 1 - cosine of a tower's embeddings. A model that learned to please a scorer often draws the same
picture again and again, far from what its base drew.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from curate.compare.statistics.bootstrap import Floats, Resamples, by_prompt, ratio_intervals
from curate.compare.statistics.pictures import Pictures


@dataclass(frozen=True)
class Diversity:
    """One model by one tower. diversity: mean distance between two pictures of a prompt, mean over `prompts`; None
    where no prompt has two. from_reference: mean distance to the reference's picture of the same pair.
    """

    tower: str
    model: str
    prompts: int
    diversity: float | None
    diversity_low: float | None
    diversity_high: float | None
    from_reference: float | None
    from_reference_low: float | None
    from_reference_high: float | None


def diversities(
    pictures: Pictures, tower: str, embeddings: NDArray[np.float32], reference: int, draws: Resamples
) -> list[Diversity]:
    """embeddings: (pictures, dimension). reference: which model the others are measured from."""
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        unit = embeddings / norms
    apart, several = _diversity(pictures, unit)
    away, pairs = _distance(pictures, unit, reference)
    drawn = np.split(draws.sums(np.concatenate([apart, several, away, pairs], axis=1)), 4, axis=1)
    diversity, distance = ratio_intervals(*drawn[:2]), ratio_intervals(*drawn[2:])
    return [
        Diversity(
            tower, name, int(several[:, index].sum()),
            *_mean(apart, several, index, diversity[index]), *_mean(away, pairs, index, distance[index]),
        )
        for index, name in enumerate(pictures.models)
    ]  # fmt: skip


def _mean(
    sums: Floats, sizes: Floats, index: int, low_high: tuple[float, float]
) -> tuple[float, float, float] | tuple[None, None, None]:
    size = sizes[:, index].sum()
    return (float(sums[:, index].sum() / size), *low_high) if size else (None, None, None)


def _diversity(pictures: Pictures, unit: NDArray[np.float32]) -> tuple[Floats, Floats]:
    """(prompts, models): mean distance between two pictures, and 1 where there are two.

    Of n unit vectors with sum s the mean cosine of two is (|s|^2 - n) / (n (n - 1)).
    """
    shape = (len(pictures.prompts), len(pictures.models))
    group = pictures.prompt * shape[1] + pictures.model
    starts = np.flatnonzero(np.diff(group, prepend=-1))  # a prompt's pictures stand together, by model
    sizes = np.diff(starts, append=len(group)).astype(np.float64)
    member = csr_array((np.ones(len(group), np.float32), np.arange(len(group)), np.append(starts, len(group))))
    sums = member @ unit  # a tenth of the time of np.add.reduceat
    with np.errstate(invalid="ignore", divide="ignore"):
        apart = np.maximum(0, 1 - (np.square(sums).sum(axis=1, dtype=np.float64) - sizes) / (sizes * (sizes - 1)))
    known = (sizes > 1) & np.isfinite(apart)
    distance, several = np.zeros(shape[0] * shape[1]), np.zeros(shape[0] * shape[1])
    distance[group[starts][known]], several[group[starts][known]] = apart[known], 1.0
    return distance.reshape(shape), several.reshape(shape)


def _distance(pictures: Pictures, unit: NDArray[np.float32], reference: int) -> tuple[Floats, Floats]:
    """(prompts, models): summed distance to the reference's pictures, and how many pairs."""
    one, two = pictures.model[pictures.one], pictures.model[pictures.two]
    own = np.flatnonzero((one == reference) | (two == reference))
    first, second = pictures.one[own], pictures.two[own]
    distance = np.maximum(0, 1 - np.einsum("ij,ij->i", unit[first], unit[second]).astype(np.float64))  # rounding
    known = np.isfinite(distance)
    model = np.where(one[own] == reference, two[own], one[own])[known]
    prompt, shape = pictures.prompt[first][known], (len(pictures.prompts), len(pictures.models))
    return (
        by_prompt(prompt, distance[known], model, shape),
        by_prompt(prompt, np.ones(int(known.sum())), model, shape),
    )
