import numpy as np
import pytest

from benchmarks.reproduction.judges import SCORERS, judgements, noise_scale, scores

RNG = np.random.default_rng(0)
TRUTH = RNG.normal(-12, 3, (20_000, 2))
BETTER = (TRUTH[:, 0] <= TRUTH[:, 1]).astype(int)


@pytest.mark.parametrize("accuracy", [0.6, 0.74, 0.9])
def test_annotators_are_right_as_often_as_asked(accuracy: float) -> None:
    right = np.mean(judgements(TRUTH, accuracy, seed=1) == BETTER)
    assert right == pytest.approx(accuracy, abs=0.012)  # three standard errors of 20,000 pairs are 0.01


def test_perfect_annotators_never_err() -> None:
    assert (judgements(TRUTH, 1.0, seed=0) == BETTER).all()


def test_small_gaps_are_judged_wrongly_more_often() -> None:
    right = judgements(TRUTH, 0.74, seed=0) == BETTER
    gap = np.abs(TRUTH[:, 0] - TRUTH[:, 1])
    assert right[gap > np.median(gap)].mean() > right[gap <= np.median(gap)].mean() + 0.1


def test_the_scale_gives_the_expected_share() -> None:
    gap = np.array([1.0, -1.0])
    # P(right) = 1 / (1 + exp(-1 / s)) = 0.74, so s = 1 / log(0.74 / 0.26)
    assert noise_scale(gap, 0.74) == pytest.approx(1 / np.log(0.74 / 0.26), rel=1e-6)


@pytest.mark.parametrize("accuracy", [0.5, 0.2, 1.01])
def test_an_impossible_accuracy_is_refused(accuracy: float) -> None:
    with pytest.raises(ValueError, match=f"not {accuracy}"):
        noise_scale(np.array([1.0]), accuracy)


def test_seeds_decide_judgements_and_scores() -> None:
    assert (judgements(TRUTH, 0.74, 3) == judgements(TRUTH, 0.74, 3)).all()
    assert (judgements(TRUTH, 0.74, 3) != judgements(TRUTH, 0.74, 4)).any()


@pytest.mark.parametrize("name", SCORERS)
def test_scorers_see_the_truth_as_their_noise_allows(name: str) -> None:
    kind, truth = SCORERS[name], TRUTH[:, 0]
    colour, prompt = RNG.random(len(truth)), np.arange(len(truth)) // 4
    seen = scores(name, truth, colour, prompt, seed=0)
    assert seen.mean() == pytest.approx(kind.mean, abs=1e-3)
    assert seen.std() == pytest.approx(kind.spread, rel=1e-2)
    parts = np.array([kind.truth, kind.colour, kind.prompt, kind.noise])
    expected = kind.truth / np.sqrt(np.square(parts).sum())
    assert np.corrcoef(seen, truth)[0, 1] == pytest.approx(expected, abs=0.03)


def test_scorers_do_not_err_together() -> None:
    truth, colour, prompt = TRUTH[:, 0], np.zeros(len(TRUTH)), np.zeros(len(TRUTH), int)
    colour[0] = 1
    errors = [scores(name, truth, colour, prompt, 0) for name in ("hpsv2", "pickscore")]
    left = [one - np.polyval(np.polyfit(truth, one, 1), truth) for one in errors]
    assert abs(np.corrcoef(left)[0, 1]) < 0.03
