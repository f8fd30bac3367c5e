"""Each filter by hand: what it leaves out, under which reason, and that a condition cannot do more than ask."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from curate.errors import QueryError, RunError, UsageError
from curate.rank.filters import Filters
from curate.rank.psi import Psi
from curate.rank.stdout import rank_lines
from curate.storage.run import Run
from tests.curate.builders import Outcome
from tests.curate.runs import HAND_PAIRS, HAND_SCORES, make_run, qualities, ranked

Curate = Callable[..., Outcome]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    columns: dict[str, list[Any]] = {
        "split": ["train", "train", "train", "validation"],
        "annotator_id": ["ann", "bob", None, None],
        "image_0_model": ["sd", "sdxl", "sd", "sdxl"],
        "image_1_model": ["sdxl", "sd", "sd", "sd"],
    }
    return make_run(tmp_path / "run", HAND_PAIRS, HAND_SCORES, prompts=["p", "p", "p", "q"], columns=columns)


@pytest.mark.parametrize(
    ("filters", "kept", "reasons"),
    [
        (Filters(where="clip_margin > 0"), {"pair-3"}, {"where": 2}),
        (Filters(where="prompt = 'prompt q'"), {"pair-3"}, {"where": 2}),
        (Filters(where="annotator_id = 'ann'"), {"pair-0"}, {"where": 2}),  # unknown is not kept
        (Filters(where="rejected_model = 'sdxl' -- drawn badly"), {"pair-0", "pair-1"}, {"where": 1}),
        (
            Filters(where="prompt_id in (from (select prompt_id from prompts) where prompt_id = 'q')"),
            {"pair-3"},
            {"where": 2},
        ),
        (Filters(split="validation"), {"pair-3"}, {"other_split": 2}),
        (Filters(min_scores={"clip": 0.2}), {"pair-1", "pair-3"}, {"low_score": 1}),
        (Filters(min_scores={"clip": 0.2, "pickscore": 20}), {"pair-3"}, {"low_score": 2}),
        (Filters(where="clip_margin > 0", split="train"), set(), None),
        (Filters(where="clip_preferred >= 0.2", split="train"), {"pair-1"}, {"other_split": 1, "where": 1}),
    ],
)
def test_a_filter_by_hand(run: Run, filters: Filters, kept: set[str], reasons: dict[str, int] | None) -> None:
    if reasons is None:
        with pytest.raises(UsageError, match=r"loosen the filters, which set aside: where 2, other_split 1$"):
            ranked(run, filters=filters)
        return
    report = ranked(run, filters=filters)
    assert set(qualities(run)) == kept
    assert report["dropped_pairs"] == reasons | {"tie": 1}
    assert report["base_pairs"] + sum(report["dropped_pairs"].values()) == report["pairs"]
    assert report["filters"] == filters.stated()


def test_a_metric_that_gives_nothing_to_what_the_filters_leave(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.sql").write_text("select pair_id, null as quality from pair_scores")
    with pytest.raises(QueryError, match="it gave none of the 2 pairs that the filters leave a quality"):
        ranked(run, metric=str(tmp_path / "mine.sql"), filters=Filters(split="train"))


@pytest.mark.parametrize("condition", ["", " \n"])
def test_a_condition_that_says_nothing(run: Run, condition: str) -> None:
    with pytest.raises(QueryError, match="--where: it is empty; give a condition over pair_facts"):
        ranked(run, filters=Filters(where=condition))


def test_a_filter_does_not_change_anyone_s_quality(run: Run) -> None:
    """psi is normalised over all eligible pairs, so that rankings under other filters compare."""
    ranked(run, "all")
    ranked(run, "some", filters=Filters(split="train"))
    everything = qualities(run, "all")
    assert qualities(run, "some") == {pair: everything[pair] for pair in ("pair-0", "pair-1")}


def test_minimum_scores_hold_at_the_stated_value(run: Run) -> None:
    ranked(run, filters=Filters(min_scores={"pickscore": 21.0}))
    assert set(qualities(run)) == {"pair-3"}


def test_nsfw_of_either_image_counts_and_unknown_does_not_pass(tmp_path: Path) -> None:
    scores = {"a": (0.1, 0.2), "b": (0.2, 0.7), "c": (0.3, 0.1), "d": (0.4, None)}
    judgements: list[tuple[str, str, int | None]] = [("a", "c", 0), ("a", "b", 0), ("b", "a", 0), ("d", "a", 0)]
    run = make_run(tmp_path / "run", judgements, scores, ("clip", "nsfw"))
    report = ranked(run, psi=Psi({"clip": 1.0}, "percentile"), filters=Filters(max_nsfw=0.5))
    assert set(qualities(run)) == {"pair-0"}
    assert report["dropped_pairs"] == {"nsfw": 3}


def test_every_nsfw_scorer_of_the_run_counts(tmp_path: Path) -> None:
    """The classifier of the pictures and the flag of the prompt; which were used is printed and stored."""
    scores = {"a": (0.1, 0.2, 0.0), "b": (0.2, 0.1, 1.0), "c": (0.3, 0.1, 0.0), "d": (0.4, 0.9, 0.0)}
    judgements: list[tuple[str, str, int | None]] = [("a", "c", 0), ("b", "a", 0), ("d", "a", 0)]
    run = make_run(tmp_path / "run", judgements, scores, ("clip", "nsfw", "nsfw_words"))
    report = ranked(run, psi=Psi({"clip": 1.0}, "percentile"), filters=Filters(max_nsfw=0.5))
    assert set(qualities(run)) == {"pair-0"}
    assert report["dropped_pairs"] == {"nsfw": 2}
    assert report["nsfw_scorers"] == ["nsfw", "nsfw_words"]
    assert "nsfw      at most 0.5 by nsfw and nsfw_words" in rank_lines(report, "run")


def test_the_flag_of_the_prompt_suffices(tmp_path: Path) -> None:
    scores = {"a": (0.1, 0.0), "b": (0.2, 0.0), "c": (0.3, 1.0)}
    run = make_run(tmp_path / "run", [("a", "b", 0), ("a", "c", 0)], scores, ("clip", "nsfw_words"))
    report = ranked(run, psi=Psi({"clip": 1.0}, "percentile"), filters=Filters(max_nsfw=0.0))
    assert (set(qualities(run)), report["nsfw_scorers"]) == ({"pair-0"}, ["nsfw_words"])
    report = ranked(run, psi=Psi({"clip": 1.0}, "percentile"))
    assert (report["base_pairs"], report["nsfw_scorers"]) == (2, []), "not asked, nothing is left out"


def annotated(tmp_path: Path) -> Run:
    """Two scorers that are right; Ann follows them in 40 pairs of 40, Bob in 20 of 40, Cy in none of 1."""
    scores: dict[str, tuple[float, float]] = {}
    judgements: list[tuple[str, str, int | None]] = []
    annotators = []
    for i in range(81):
        scores |= {f"w{i}": (0.5 + 0.001 * i, 21.0), f"l{i}": (0.1, 20.0)}
        annotator = "ann" if i < 40 else "bob" if i < 80 else "cy"
        right = annotator == "ann" or (annotator == "bob" and i % 2 == 0)
        judgements.append((f"w{i}", f"l{i}", 0 if right else 1))
        annotators.append(annotator)
    prompts = [f"p{i % 9}" for i in range(81)]
    return make_run(tmp_path / "run", judgements, scores, prompts=prompts, columns={"annotator_id": annotators})


def test_annotators_at_chance_are_left_out_and_few_judgements_say_little(tmp_path: Path) -> None:
    run = annotated(tmp_path)
    report = ranked(run, filters=Filters(min_annotator_agreement=0.6))
    # Of 81 judgements 60 agree: Bob (20 + 10 * 60/81) / 50 = 0.548; Cy (0 + 10 * 60/81) / 11 = 0.673.
    assert report["dropped_pairs"] == {"annotator_at_chance": 40}
    from curate.database.connection import fetch
    from curate.rank.rankings import open_views

    found = dict(fetch(open_views(run), "select annotator_id, agreement from annotators"))
    mean = 60 / 81
    expected = {"ann": (40 + 10 * mean) / 50, "bob": (20 + 10 * mean) / 50, "cy": 10 * mean / 11}
    assert found == pytest.approx(expected)


def test_pairs_without_an_annotator_stay(run: Run) -> None:
    report = ranked(run, filters=Filters(min_annotator_agreement=1.0))
    assert "pair-3" in qualities(run)
    assert report["calibration"]["pairs"] == 3


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        (Filters(min_scores={"clipp": 1.0}), "--min-score: the run has no scorer 'clipp'; did you mean 'clip'?"),
        (
            Filters(max_nsfw=0.5),
            "--max-nsfw: the run has no NSFW scorer; it has clip, pickscore. Embed into another --run with "
            "`curate embed --scorers clip,pickscore,nsfw,nsfw_words`, or one of the two",
        ),
        (Filters(min_annotator_agreement=55), "--min-annotator-agreement 55: give a share from 0 to 1, such as 0.55"),
    ],
)
def test_impossible_filters_are_refused(run: Run, filters: Filters, message: str) -> None:
    with pytest.raises(UsageError) as raised:
        ranked(run, filters=filters)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    "where",
    [
        "true) as kept from pair_facts; drop table eligible; select (true",
        "copy (select 1) to 'x'",
        "exists (select * from read_text('/etc/hostname'))",
        "exists (from glob('/*'))",
        "nonsense > 1",
        "true, false",
        "'a prompt'",
        "$x",
        "",
    ],
)
def test_a_condition_can_only_ask(run: Run, where: str) -> None:
    with pytest.raises(QueryError, match="--where"):
        ranked(run, filters=Filters(where=where))
    assert not run.rankings.exists()


@pytest.mark.parametrize("where", ["unnest([]::boolean[])", "unnest([true, false])"])
def test_a_condition_answers_once_for_each_pair(run: Run, where: str) -> None:
    with pytest.raises(QueryError, match="it must hold or not, once for each pair"):
        ranked(run, filters=Filters(where=where))


def test_a_condition_may_ask_for_the_calibrated_odds(run: Run) -> None:
    filters = Filters(where="pair_id in (select pair_id from calibrated where log_odds > 0)")
    report = ranked(run, filters=filters)
    assert 0 < report["base_pairs"] < 3
    assert "calibration" in report


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_bound_is_a_finite_number(run: Run, value: float) -> None:
    with pytest.raises(UsageError, match=f"--min-score: {value} is not a finite number"):
        ranked(run, filters=Filters(min_scores={"clip": value}))


def test_nsfw_judges_nobody(tmp_path: Path) -> None:
    """The preferred picture is the less decent one: no vote, no margin to calibrate on, no front."""
    scores = {"a": (0.5, 0.9, 1.0), "b": (0.1, 0.1, 0.0)}
    run = make_run(tmp_path / "run", [("a", "b", 0)], scores, ("clip", "nsfw", "nsfw_words"))
    clip = Psi({"clip": 1.0}, "percentile")
    ranked(run, metric="vote", psi=clip)
    assert qualities(run) == {"pair-0": 1.5}
    assert set(ranked(run, metric="pareto", psi=clip)["calibration"]["weights"]) == {"clip"}


def test_a_scorer_without_values_cannot_be_calibrated(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [("a", "b", 0)], {"a": (0.5, None), "b": (0.1, None)})
    with pytest.raises(RunError, match=r"no pair has a margin of every scorer \(clip, pickscore\) to calibrate on"):
        ranked(run, psi=Psi({"clip": 1.0}, "percentile"), metric="calibrated")


def test_filters_on_the_command_line(run: Run, curate: Curate) -> None:
    done = curate("rank", "--run", run.root, "--psi", "clip", "--min-score", "clip=0.2", "--split", "train")
    assert done.code == 0, done.err
    assert "4 = 1 ranked + 1 low_score + 1 other_split + 1 tie" in done.out
    done = curate("rank", "--run", run.root, "--psi", "clip", "--min-score", "clip")
    assert (done.code, done.err) == (2, "curate: --min-score clip: write SCORER=VALUE, such as clip=0.2\n")
    done = curate("rank", "--run", run.root, "--min-score", "clip=1", "--min-score", "clip=2")
    assert (done.code, done.err) == (2, "curate: --min-score clip=2: 'clip' is given twice\n")
