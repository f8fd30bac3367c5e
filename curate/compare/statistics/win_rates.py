"""Who wins: the numbers of `curate compare` from the scores of the models' pictures.

Rates, changes and intervals are over pairs; intervals draw whole prompts (bootstrap.py). A tie is half a win; what is a
tie, and what a change is measured in, says noise.py.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import bdtr

from curate.compare.statistics.bootstrap import Floats, Resamples, by_prompt, interval, ratio_intervals
from curate.compare.statistics.bradley_terry import comparable, strengths
from curate.compare.statistics.noise import Noise
from curate.compare.statistics.pictures import Pictures


@dataclass(frozen=True)
class Verdict:
    """One scorer's comparison of two models. Rates and intervals are fractions.

    ties: pairs whose scores differ by at most the tie band; raw_*: as if it were 0, so that any difference wins.
    effect: the mean change in units of the noise; None where there is no noise.
    sign_*: prompts on which the model wins more pairs than it loses, or fewer; sign_p_value: two-sided exact binomial
    test of these against a half (the unit is the prompt; prompts with as many wins as losses say nothing).
    in_sample: this scorer had a say in which pairs one of the two was trained on.
    """

    scorer: str
    model: str
    against: str
    category: str | None
    pairs: int
    prompts: int
    wins: int
    ties: int
    losses: int
    win_rate: float
    win_rate_low: float
    win_rate_high: float
    raw_wins: int
    raw_ties: int
    raw_losses: int
    raw_win_rate: float
    effect: float | None
    effect_low: float | None
    effect_high: float | None
    mean_model: float
    mean_against: float
    mean_change: float
    mean_change_low: float
    mean_change_high: float
    median_change: float
    sign_wins: int
    sign_losses: int
    sign_p_value: float
    in_sample: bool
    not_finite: int


@dataclass(frozen=True)
class Standing:
    """One model by one scorer, over the prompts of which every model has a picture.

    strength: Bradley-Terry, in logits, mean 0 over the models; None where they are not all compared.
    """

    scorer: str
    model: str
    pictures: int
    mean: float
    mean_low: float
    mean_high: float
    median: float
    strength: float | None
    strength_low: float | None
    strength_high: float | None
    in_sample: bool


def verdicts(
    pictures: Pictures, noise: Noise, draws: Resamples, chosen_by: dict[str, list[str]], category: str | None = None
) -> list[Verdict]:
    """One for every two models that have pairs, by the scorer of `noise`, over all prompts or those of one category."""
    scorer = noise.scorer
    scores = pictures.scores[scorer]
    change = scores[pictures.one] - scores[pictures.two]
    prompt, couple = pictures.prompt[pictures.one], pictures.couple
    rows = None
    within = np.ones(len(change), bool)
    if category is not None:
        belongs = np.array([one == category for one in pictures.categories])
        rows, within = np.flatnonzero(belongs), belongs[prompt]
    known = within & np.isfinite(change)
    shape = (len(pictures.prompts), len(pictures.couples))
    clear = outcomes(change, noise.band)
    columns = [
        by_prompt(prompt[known], values[known], couple[known], shape)
        for values in ((clear + 1) / 2, change, np.ones(len(change)), clear)
    ]
    sums = draws.sums(np.concatenate(columns[:3], axis=1), rows)
    win, shift, size = np.split(sums, 3, axis=1)
    rates, shifts = ratio_intervals(win, size), ratio_intervals(shift, size)
    found = []
    for index, (one, two) in enumerate(pictures.couples):
        here = couple == index
        mine = known & here
        if not mine.any():
            continue
        names = pictures.models[one], pictures.models[two]
        own, pairs = change[mine], int(mine.sum())
        counts, raw = _counted(clear[mine]), _counted(np.sign(own))
        model, against = scores[pictures.one[mine]], scores[pictures.two[mine]]
        more, fewer = (int((sign * columns[3][:, index] > 0).sum()) for sign in (1, -1))
        in_sample = any(scorer in chosen_by.get(name, ()) for name in names)
        found.append(
            Verdict(
                scorer, *names, category, pairs, int((columns[2][:, index] > 0).sum()),
                *counts, (counts[0] + counts[1] / 2) / pairs, *rates[index], *raw, (raw[0] + raw[1] / 2) / pairs,
                *_effect(float(own.mean()), shift[:, index], size[:, index], noise),
                float(model.mean()), float(against.mean()), float(own.mean()), *shifts[index], float(np.median(own)),
                more, fewer, sign_test(more, fewer), in_sample, int((within & here).sum()) - pairs,
            )
        )  # fmt: skip
    return found


def outcomes(change: Floats, band: float) -> Floats:
    """1, 0 or -1 of each change: a win, a tie, a loss."""
    return np.where(np.abs(change) <= band, 0.0, np.sign(change))


def _counted(signs: Floats) -> tuple[int, int, int]:
    wins, ties, losses = (int((signs == sign).sum()) for sign in (1, 0, -1))
    return wins, ties, losses


def _effect(mean: float, shift: Floats, size: Floats, noise: Noise) -> tuple[float | None, float | None, float | None]:
    """The mean change in units of the noise, each resample's in its own."""
    if noise.sd == 0:
        return None, None, None
    with np.errstate(invalid="ignore", divide="ignore"):
        return (mean / noise.sd, *interval(shift / size / noise.drawn))


def sign_test(wins: int, losses: int) -> float:
    """Two-sided exact binomial p-value against a half; 1 where there is nothing to test."""
    return min(1.0, 2 * float(bdtr(min(wins, losses), wins + losses, 0.5)))  # both tails are alike at a half


def standings(pictures: Pictures, noise: Noise, draws: Resamples, chosen_by: dict[str, list[str]]) -> list[Standing]:
    """Each model's mean, median and strength by the scorer of `noise`."""
    scorer = noise.scorer
    scores, models = pictures.scores[scorer], pictures.models
    known = np.isfinite(scores) & pictures.shared[pictures.prompt]
    shape = (len(pictures.prompts), len(models))
    total, size = (
        by_prompt(pictures.prompt[known], values[known], pictures.model[known], shape)
        for values in (scores, np.ones(len(scores)))
    )
    drawn, sizes = np.split(draws.sums(np.concatenate([total, size], axis=1)), 2, axis=1)
    means = ratio_intervals(drawn, sizes)
    strength = _strengths(pictures, noise, draws)
    found = []
    for index, name in enumerate(models):
        own = scores[known & (pictures.model == index)]
        mean, median = (float(own.mean()), float(np.median(own))) if len(own) else (np.nan, np.nan)
        in_sample = scorer in chosen_by.get(name, ())
        found.append(Standing(scorer, name, len(own), mean, *means[index], median, *strength[index], in_sample))
    return found


def _strengths(
    pictures: Pictures, noise: Noise, draws: Resamples
) -> list[tuple[float | None, float | None, float | None]]:
    """Strength and its interval, model by model; Nones where there are two models or some are never compared."""
    models, scores = len(pictures.models), pictures.scores[noise.scorer]
    change = scores[pictures.one] - scores[pictures.two]
    known = np.isfinite(change)
    points = (outcomes(change[known], noise.band) + 1) / 2
    prompt, couple = pictures.prompt[pictures.one][known], pictures.couple[known]
    shape = (len(pictures.prompts), len(pictures.couples))
    won, lost = (by_prompt(prompt, values, couple, shape) for values in (points, 1 - points))
    wins = _matrix(pictures, won.sum(axis=0), lost.sum(axis=0))
    if models < 3 or not comparable(wins):
        return [(None, None, None)] * models
    drawn = np.split(draws.sums(np.concatenate([won, lost], axis=1)), 2, axis=1)
    spread = strengths(_matrix(pictures, *drawn))
    low_high = [interval(column) for column in spread.T]
    return [(float(one), low, high) for one, (low, high) in zip(strengths(wins), low_high, strict=True)]


def _matrix(pictures: Pictures, won: Floats, lost: Floats) -> Floats:
    """(..., couples) as (..., models, models): how often each row's model won against each column's."""
    wins = np.zeros((*won.shape[:-1], len(pictures.models), len(pictures.models)))
    one, two = np.triu_indices(len(pictures.models), 1)
    wins[..., one, two], wins[..., two, one] = won, lost
    return wins
