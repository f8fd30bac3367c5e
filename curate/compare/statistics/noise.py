"""How far a score moves when nothing but the seed does: the unit that a difference between two models is measured in.

Two models that draw nearly the same picture can differ in sign on almost every pair. A difference counts where it is
more than a small part of the noise; the effect is the mean difference in units of the noise: Cohen's d (Cohen,
Statistical Power Analysis, 1988) with the spread of drawings as its standard deviation, not that of differences.
"""

from dataclasses import dataclass

import numpy as np

from curate.compare.statistics.bootstrap import Floats, Resamples, by_prompt
from curate.compare.statistics.pictures import Pictures

TIE_BAND = 0.2
"""Of the noise: what Cohen calls small; below it a difference is a tie."""
FEWEST = 10
"""Degrees of freedom below which the pictures of one prompt say too little."""


@dataclass(frozen=True)
class Noise:
    """One scorer's noise over all models that are compared.

    sd: standard deviation of the scores of one model's pictures of one prompt, over all prompts and models; of one
    model's pictures of all prompts where `between` is "prompts": too few prompts have two pictures.
    drawn: sd of each resample. band: differences up to it are ties, in the scorer's own unit.
    """

    scorer: str
    between: str
    sd: float
    drawn: Floats
    band: float


def noise(pictures: Pictures, scorer: str, draws: Resamples, tie_band: float = TIE_BAND) -> Noise:
    """tie_band: as a part of the noise."""
    scores, models = pictures.scores[scorer], len(pictures.models)
    known = np.isfinite(scores)
    prompt, model, values = pictures.prompt[known], pictures.model[known], scores[known]
    shape = (len(pictures.prompts), models)
    centre = np.bincount(model, values, models) / np.maximum(np.bincount(model, minlength=models), 1)
    values = values - centre[model]  # squares of large scores would lose digits
    sizes, sums, squares = (by_prompt(prompt, one, model, shape) for one in (np.ones(len(values)), values, values**2))
    freedom = np.maximum(sizes - 1, 0)
    if freedom.sum() >= FEWEST:
        apart = squares - np.divide(sums**2, sizes, out=np.zeros(shape), where=sizes > 0)
        columns = np.stack([apart.sum(axis=1), freedom.sum(axis=1)], axis=1)
        between, found = "seeds", [one.T for one in (columns.sum(axis=0), draws.sums(columns))]
        sd, drawn = (np.sqrt(np.maximum(one[0], 0) / np.maximum(one[1], 1)) for one in found)
    else:
        columns = np.concatenate([sizes, sums, squares], axis=1)
        between = "prompts"
        sd, drawn = (_between_prompts(one, models) for one in (columns.sum(axis=0), draws.sums(columns)))
    return Noise(scorer, between, float(sd), drawn, tie_band * float(sd))


def _between_prompts(columns: Floats, models: int) -> Floats:
    """(..., 3 models) of sizes, sums and squares -> (...): the standard deviation within a model."""
    sizes, sums, squares = (columns[..., start : start + models] for start in range(0, 3 * models, models))
    apart = squares - np.divide(sums**2, sizes, out=np.zeros_like(sums), where=sizes > 0)
    freedom = np.maximum(sizes - 1, 0).sum(axis=-1)
    return np.asarray(np.sqrt(np.maximum(apart.sum(axis=-1), 0) / np.maximum(freedom, 1)))
