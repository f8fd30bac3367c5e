"""The noise of drawings, the tie band and the effect, worked by hand and against a naive bootstrap."""

import numpy as np
import pytest

from curate.compare.headline import headline
from curate.compare.notes import notes
from curate.compare.statistics.bootstrap import Resamples
from curate.compare.statistics.noise import noise
from curate.compare.statistics.pictures import Pictures
from curate.compare.statistics.win_rates import verdicts


def drawn(model: np.ndarray, base: np.ndarray) -> Pictures:
    """Two models; scores: (prompts, pictures of each). Picture n of one is paired with picture n of the other."""
    prompts, each = model.shape
    together = np.concatenate([model, base], axis=1).ravel()
    one = (np.arange(prompts)[:, None] * 2 * each + np.arange(each)).ravel()
    return Pictures(
        ["a", "b"], [f"p{i:03d}" for i in range(prompts)], [None] * prompts,
        np.repeat(np.arange(prompts), 2 * each), np.tile(np.repeat([0, 1], each), prompts), one, one + each,
        {"clip": together}, [f"u{i}" for i in range(len(together))],
    )  # fmt: skip


BASE = np.array([[0.0, 2.0], [10.0, 12.0], [5.0, 7.0], [1.0, 3.0], [8.0, 10.0]])
"""Two pictures of a prompt lie 2 apart: their standard deviation is sqrt(2), whatever the prompt."""


def test_the_noise_is_what_another_seed_changes_and_not_another_prompt() -> None:
    found = noise(drawn(BASE + 100, BASE), "clip", Resamples(5, 50), 0.5)
    assert (found.between, found.sd, found.band) == ("seeds", pytest.approx(2**0.5), pytest.approx(2**0.5 / 2))
    assert found.drawn == pytest.approx(np.full(50, 2**0.5))


def test_with_one_picture_of_each_prompt_the_noise_is_between_prompts() -> None:
    base = np.array([[0.0], [2.0], [4.0], [6.0]])
    found = noise(drawn(base + 1, base), "clip", Resamples(4, 50), 0.2)
    assert (found.between, found.sd) == ("prompts", pytest.approx(np.std([0, 2, 4, 6], ddof=1)))


def test_small_systematic_changes_are_ties_and_both_counts_are_there() -> None:
    """Eight pairs change by a tenth of the noise, one wins clearly, one loses clearly."""
    change = np.full((5, 2), 0.1 * 2**0.5)
    change[0, 0], change[1, 1] = 2.0, -2.0
    pictures = drawn(BASE, BASE - change)
    unit = noise(pictures, "clip", Resamples(5, 50), 0.2)
    (found,) = verdicts(pictures, unit, Resamples(5, 50), {})
    assert (found.wins, found.ties, found.losses, found.win_rate) == (1, 8, 1, 0.5)
    assert (found.raw_wins, found.raw_ties, found.raw_losses, found.raw_win_rate) == (9, 0, 1, 0.9)
    assert (found.sign_wins, found.sign_losses) == (1, 1)
    assert found.effect == pytest.approx(change.mean() / unit.sd)
    report = {"models": ["a", "b"], "against": "b", "verdicts": [vars(found)], "chosen_by": {}, "faults": {}}
    report |= {"standings": [], "noise": [vars(unit)], "scorers": ["clip"], "impartial": []}
    assert notes(pictures, report) == ["a and b hardly differ: by every scorer 80 % of their pairs or more are ties"]
    assert headline(report) == (
        f"Against b, by clip, no impartial judge: a is not told apart (win rate 50.0 %, effect {found.effect:+.2f})."
    )


def test_the_interval_of_the_effect_draws_the_noise_too() -> None:
    random = np.random.default_rng(0)
    base = random.normal(size=(80, 2)) * random.uniform(0.2, 3, (80, 1))  # prompts differ in how much a seed changes
    model = base + 0.5 + random.normal(size=(80, 2))
    pictures, draws = drawn(model, base), Resamples(80, 4000)
    (found,) = verdicts(pictures, noise(pictures, "clip", draws), draws, {})
    naive = []
    for _ in range(4000):
        rows = random.integers(0, 80, 80)
        spread = np.concatenate([model[rows].var(axis=1, ddof=1), base[rows].var(axis=1, ddof=1)]).mean() ** 0.5
        naive.append((model - base)[rows].mean() / spread)
    expected = np.quantile(naive, (0.025, 0.975))
    assert (found.effect_low, found.effect_high) == pytest.approx(tuple(expected), abs=0.03)


def test_without_noise_there_is_no_effect() -> None:
    same = drawn(np.ones((6, 2)), np.ones((6, 2)))
    (found,) = verdicts(same, noise(same, "clip", Resamples(6, 20)), Resamples(6, 20), {})
    assert (found.effect, found.effect_low, found.ties) == (None, None, 12)


def verdict(scorer: str, model: str, low: float, high: float) -> dict[str, object]:
    return {"scorer": scorer, "model": model, "against": "z", "win_rate_low": low, "win_rate_high": high} | {
        "win_rate": (low + high) / 2, "effect": low - high
    }  # fmt: skip


def test_the_sentence_goes_by_impartial_scorers_and_by_whole_intervals() -> None:
    rows = [verdict("clip", "a", 0.8, 0.9), verdict("hpsv2", "a", 0.4, 0.6), verdict("mps", "a", 0.52, 0.6)]
    rows += [verdict("hpsv2", "b", 0.2, 0.3), verdict("mps", "b", 0.6, 0.9), verdict("hpsv2", "c", 0.2, 0.3)]
    said = headline({"against": "z", "scorers": [], "impartial": ["hpsv2", "mps"], "verdicts": rows})
    assert said == (
        "Against z, by hpsv2 and mps: a wins by 1 of them (win rate 50.0 to 56.0 %, effect -0.20 to -0.08); "
        "b wins by 1 and loses by 1 of them (win rate 25.0 to 75.0 %, effect -0.30 to -0.10); "
        "c loses (win rate 25.0 %, effect -0.10)."
    )
