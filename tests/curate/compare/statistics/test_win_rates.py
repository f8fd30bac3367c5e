"""Verdicts, standings, strengths and spread against counts worked by hand."""

from dataclasses import replace

import numpy as np
import pytest

from curate.compare.gallery import by_importance, drawing_rows
from curate.compare.notes import notes
from curate.compare.statistics.bootstrap import Resamples
from curate.compare.statistics.diversity import diversities
from curate.compare.statistics.noise import Noise, noise
from curate.compare.statistics.pictures import Pictures
from curate.compare.statistics.win_rates import sign_test, standings, verdicts

DRAWS = 100


def two_models() -> Pictures:
    """Prompt p with two pictures of each model, q and r with one; the middle change is a tie."""
    return Pictures(
        models=["a", "b"],
        prompts=["p", "q", "r"],
        categories=["x", "x", None],
        prompt=np.array([0, 0, 0, 0, 1, 1, 2, 2]),
        model=np.array([0, 0, 1, 1, 0, 1, 0, 1]),
        one=np.array([0, 1, 4, 6]),
        two=np.array([2, 3, 5, 7]),
        scores={"clip": np.array([0.5, 0.3, 0.25, 0.3, 0.2, 0.7, 0.9, 0.4])},
        uids=[f"u{i}" for i in range(8)],
    )


def three_models() -> Pictures:
    """One picture of each of three models for two prompts, all in pairs; the third lacks the second prompt."""
    return Pictures(
        models=["a", "b", "c"],
        prompts=["p", "q"],
        categories=[None, None],
        prompt=np.array([0, 0, 0, 1, 1]),
        model=np.array([0, 1, 2, 0, 1]),
        one=np.array([0, 0, 1, 3]),
        two=np.array([1, 2, 2, 4]),
        scores={"clip": np.array([3.0, 2.0, 1.0, 5.0, 7.0])},
        uids=list("uvwxy"),
    )


def any_difference(pictures: Pictures, prompts: int = 3, count: int = DRAWS) -> tuple[Pictures, Noise, Resamples]:
    """What verdicts and standings take, without a tie band."""
    draws = Resamples(prompts, count)
    return pictures, noise(pictures, "clip", draws, 0), draws


def report_of(pictures: Pictures, **changes: object) -> dict[str, object]:
    given = any_difference(pictures, len(pictures.prompts))
    found = [vars(one) for one in standings(*given, {})]
    judged = [vars(one) for one in verdicts(*given, {})]
    report = {"chosen_by": {}, "verdicts": judged, "faults": {}, "standings": found, "noise": []}
    return report | {"models": pictures.models, "against": pictures.models[-1]} | changes


def test_a_verdict_by_hand() -> None:
    (found,) = verdicts(*any_difference(two_models()), {})
    assert (found.model, found.against, found.pairs, found.prompts) == ("a", "b", 4, 3)
    assert (found.wins, found.ties, found.losses) == (2, 1, 1)
    assert found.win_rate == pytest.approx(2.5 / 4)
    assert found.mean_model == pytest.approx(1.9 / 4)
    assert found.mean_change == pytest.approx((0.25 + 0 - 0.5 + 0.5) / 4)
    assert found.median_change == pytest.approx(0.125)
    assert 0 <= found.win_rate_low <= found.win_rate <= found.win_rate_high <= 1
    assert (found.sign_wins, found.sign_losses) == (2, 1)  # p: one win and a tie; q: lost; r: won
    assert found.sign_p_value == 1.0
    assert not found.in_sample


def test_a_category_by_hand() -> None:
    (found,) = verdicts(*any_difference(two_models()), {}, "x")
    assert (found.category, found.pairs, found.prompts) == ("x", 3, 2)
    assert (found.wins, found.ties, found.losses) == (1, 1, 1)


def test_an_interval_by_category_is_that_of_its_prompts_alone() -> None:
    random = np.random.default_rng(0)
    count = 60
    whole = Pictures(
        ["a", "b"], [f"p{i}" for i in range(count)], ["x" if i % 2 else "y" for i in range(count)],
        np.repeat(np.arange(count), 2), np.tile([0, 1], count), np.arange(0, 2 * count, 2), np.arange(1, 2 * count, 2),
        {"clip": random.normal(size=2 * count)}, [f"u{i}" for i in range(2 * count)],
    )  # fmt: skip
    (found,) = verdicts(*any_difference(whole, count, 5000), {}, "x")
    change = whole.scores["clip"][0::2] - whole.scores["clip"][1::2]
    means = [random.choice(change[1::2], 30).mean() for _ in range(5000)]
    expected = tuple(np.quantile(means, (0.025, 0.975)))
    assert (found.mean_change_low, found.mean_change_high) == pytest.approx(expected, abs=0.08)


@pytest.mark.parametrize(("wins", "losses", "p_value"), [(0, 0, 1.0), (5, 0, 2 / 32), (3, 3, 1.0), (1, 9, 22 / 1024)])
def test_the_sign_test_by_hand(wins: int, losses: int, p_value: float) -> None:
    assert sign_test(wins, losses) == pytest.approx(p_value)


def test_a_scorer_that_chose_either_models_pairs_is_in_sample() -> None:
    for chosen_by, expected in (({"a": ["clip"]}, True), ({"b": ["clip"]}, True), ({"a": ["hpsv2"]}, False)):
        (found,) = verdicts(*any_difference(two_models()), chosen_by)
        assert found.in_sample is expected
    marked = standings(*any_difference(two_models()), {"a": ["clip"]})
    assert [one.in_sample for one in marked] == [True, False]


def test_scores_that_are_not_finite_are_counted_and_not_averaged() -> None:
    pictures = two_models()
    scores = pictures.scores["clip"].copy()
    scores[0] = np.nan
    pictures = replace(pictures, scores={"clip": scores})
    (found,) = verdicts(*any_difference(pictures), {})
    assert (found.pairs, found.not_finite) == (3, 1)
    assert found.mean_change == pytest.approx((0 - 0.5 + 0.5) / 3)
    (first, _) = standings(*any_difference(pictures), {})
    assert (first.pictures, first.mean) == (3, pytest.approx((0.3 + 0.2 + 0.9) / 3))
    assert "1 pictures of a have no finite clip score; clip leaves them out" in notes(pictures, report_of(pictures))


def test_means_are_over_the_prompts_that_all_share() -> None:
    pictures = three_models()
    found = standings(*any_difference(pictures, 2), {})
    assert [(one.model, one.mean, one.median, one.pictures) for one in found] == [
        ("a", 3.0, 3.0, 1), ("b", 2.0, 2.0, 1), ("c", 1.0, 1.0, 1),
    ]  # fmt: skip
    assert found[0].strength is not None
    assert found[2].strength is not None
    assert found[0].strength > found[2].strength
    (by_pair, *_) = verdicts(*any_difference(pictures, 2), {})
    assert (by_pair.model, by_pair.against, by_pair.pairs, by_pair.wins) == ("a", "b", 2, 1)
    assert notes(pictures, report_of(pictures)) == [
        "c has no scored picture of 1 of the 2 prompts, such as 'q'; means are over the 1 prompts that all share"
    ]


def test_unequal_counts_identical_models_and_models_that_never_meet_are_said() -> None:
    pictures = two_models()
    fewer = replace(pictures, prompt=pictures.prompt[1:], model=pictures.model[1:], one=pictures.one[1:] - 1,
                    two=pictures.two[1:] - 1, scores={"clip": pictures.scores["clip"][1:]})  # fmt: skip
    assert notes(fewer, report_of(fewer)) == [
        "the models have different numbers of pictures of 1 prompts; only pictures that make a pair are compared"
    ]
    same = replace(pictures, scores={"clip": np.ones(8)})
    assert notes(same, report_of(same)) == ["a and b score the same on every picture: their 50 % is made of 4 ties"]
    (found,) = verdicts(*any_difference(same), {})
    assert (found.win_rate, found.win_rate_low, found.win_rate_high, found.ties) == (0.5, 0.5, 0.5, 4)
    apart = replace(three_models(), one=np.array([0, 3]), two=np.array([1, 4]))
    assert notes(apart, report_of(apart))[-1] == (
        "no strengths: some of the models share no pair, directly or by way of others"
    )


def test_what_was_left_out_and_who_chose_is_said() -> None:
    pictures = two_models()
    report = report_of(pictures, faults={"a": {"black": 3, "not_finite": 1}}, chosen_by={"a": ["clip", "x"], "b": []})
    assert notes(pictures, report) == [
        "in-sample scorer: clip chose the pairs that a was trained on, and so is no impartial judge of it",
        "a: 4 pictures left out: 3 black, 1 not finite",
    ]


def test_spread_by_hand() -> None:
    """a's two pictures of p are at right angles: distance 1; b's are equal: 0."""
    embeddings = np.array([[1, 0], [0, 2], [1, 0], [1, 0], [0, 1], [0, -1], [1, 0], [1, 0]], np.float32)
    a, b = diversities(two_models(), "clip", embeddings, 1, Resamples(3, DRAWS))
    assert (a.prompts, a.diversity) == (1, pytest.approx(1.0))
    assert b.diversity == pytest.approx(0.0)
    assert a.from_reference == pytest.approx((0 + 1 + 2 + 0) / 4)
    assert b.from_reference is None
    alone = diversities(three_models(), "clip", np.eye(5, dtype=np.float32), 2, Resamples(2, DRAWS))
    assert [one.diversity for one in alone] == [None] * 3


def test_drawings_are_rows_and_the_most_telling_prompt_is_first() -> None:
    pictures = two_models()
    assert drawing_rows(pictures) == [[[0, 2], [1, 3]], [[4, 5]], [[6, 7]]]
    assert drawing_rows(three_models()) == [[[0, 1, 2]], [[3, 4, None]]]
    assert by_importance(pictures, ["clip"])[-1] == 0  # half a point either way tells more than a quarter and a tie
