"""Who wins: the numbers of `curate compare` from the scores of the models' pictures.

Rates, changes and intervals are over pairs; intervals draw whole prompts (bootstrap.py). A tie is half a win.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr

from curate.compare.statistics.bootstrap import Floats, Resamples, by_prompt, interval, ratio_intervals
from curate.compare.statistics.bradley_terry import comparable, strengths

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Pictures:
    """The scored pictures of `models`, and the pairs among them, by number.

    prompt, model: (pictures,) places in `prompts` and `models`. one, two: (pairs,) pictures, the earlier model's first.
    scores: scorer -> (pictures,), nan where not finite. categories: of each prompt, None where there is none.
    """

    models: list[str]
    prompts: list[str]
    categories: list[str | None]
    prompt: Ints
    model: Ints
    one: Ints
    two: Ints
    scores: dict[str, Floats]
    uids: list[str]

    @cached_property
    def couples(self) -> list[tuple[int, int]]:
        """Every two of the models."""
        return list(combinations(range(len(self.models)), 2))

    @cached_property
    def couple(self) -> Ints:
        """(pairs,): which two models drew each pair."""
        table = np.zeros((len(self.models), len(self.models)), np.int64)
        table[np.triu_indices(len(self.models), 1)] = np.arange(len(self.couples))
        return table[self.model[self.one], self.model[self.two]]

    @cached_property
    def counts(self) -> Ints:
        """(prompts, models): how many scored pictures there are."""
        ones = np.ones(len(self.prompt))
        return by_prompt(self.prompt, ones, self.model, (len(self.prompts), len(self.models))).astype(np.int64)

    @cached_property
    def shared(self) -> NDArray[np.bool_]:
        """(prompts,): whether every model has a picture; all prompts where no prompt is shared."""
        shared = np.asarray((self.counts > 0).all(axis=1))
        return shared if shared.any() else np.ones_like(shared)


@dataclass(frozen=True)
class Verdict:
    """One scorer's comparison of two models. Rates and intervals are fractions.

    sign_*: prompts on which the model wins more pairs than it loses, or fewer; sign_p_value: two-sided exact
    binomial test of these against a half (the unit is the prompt; prompts with as many wins as losses say nothing).
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
    pictures: Pictures, scorer: str, draws: Resamples, chosen_by: dict[str, list[str]], category: str | None = None
) -> list[Verdict]:
    """One for every two models that have pairs, over all prompts or those of one category."""
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
    points = (change > 0) + 0.5 * (change == 0)
    columns = [
        by_prompt(prompt[known], values[known], couple[known], shape)
        for values in (points, change, np.ones(len(change)), np.sign(change))
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
        wins, ties, losses = (int((np.sign(own) == sign).sum()) for sign in (1, 0, -1))
        model, against = scores[pictures.one[mine]], scores[pictures.two[mine]]
        more, fewer = (int((sign * columns[3][:, index] > 0).sum()) for sign in (1, -1))
        in_sample = any(scorer in chosen_by.get(name, ()) for name in names)
        found.append(
            Verdict(
                scorer, *names, category, pairs, int((columns[2][:, index] > 0).sum()), wins, ties, losses,
                (wins + ties / 2) / pairs, *rates[index],
                float(model.mean()), float(against.mean()), float(own.mean()), *shifts[index], float(np.median(own)),
                more, fewer, sign_test(more, fewer), in_sample, int((within & here).sum()) - pairs,
            )
        )  # fmt: skip
    return found


def sign_test(wins: int, losses: int) -> float:
    """Two-sided exact binomial p-value against a half; 1 where there is nothing to test."""
    return min(1.0, 2 * float(bdtr(min(wins, losses), wins + losses, 0.5)))  # both tails are alike at a half


def standings(pictures: Pictures, scorer: str, draws: Resamples, chosen_by: dict[str, list[str]]) -> list[Standing]:
    """Each model's mean, median and strength by one scorer."""
    scores, models = pictures.scores[scorer], pictures.models
    known = np.isfinite(scores) & pictures.shared[pictures.prompt]
    shape = (len(pictures.prompts), len(models))
    total, size = (
        by_prompt(pictures.prompt[known], values[known], pictures.model[known], shape)
        for values in (scores, np.ones(len(scores)))
    )
    drawn, sizes = np.split(draws.sums(np.concatenate([total, size], axis=1)), 2, axis=1)
    means = ratio_intervals(drawn, sizes)
    strength = _strengths(pictures, scorer, draws)
    found = []
    for index, name in enumerate(models):
        own = scores[known & (pictures.model == index)]
        mean, median = (float(own.mean()), float(np.median(own))) if len(own) else (np.nan, np.nan)
        in_sample = scorer in chosen_by.get(name, ())
        found.append(Standing(scorer, name, len(own), mean, *means[index], median, *strength[index], in_sample))
    return found


def _strengths(
    pictures: Pictures, scorer: str, draws: Resamples
) -> list[tuple[float | None, float | None, float | None]]:
    """Strength and its interval, model by model; Nones where there are two models or some are never compared."""
    models, scores = len(pictures.models), pictures.scores[scorer]
    change = scores[pictures.one] - scores[pictures.two]
    known = np.isfinite(change)
    points = ((change > 0) + 0.5 * (change == 0))[known]
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
