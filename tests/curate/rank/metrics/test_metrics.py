"""Every shipped metric by hand and by a slow version of its own; parameters; what a metric may not do."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from curate.errors import QueryError, RunError, UsageError
from curate.rank.check import check_metric
from curate.rank.metrics.calibration import fit_weights
from curate.rank.metrics.metric import load_metric, parameter_values, scorers_of, shipped_metrics
from curate.rank.psi import Psi
from curate.storage.run import Run
from tests.curate.builders import Outcome
from tests.curate.runs import BLEND, HAND_PAIRS, HAND_SCORES, make_run, qualities, ranked, ranking_rows, selected
from tests.demo import ROOT

Curate = Callable[..., Outcome]
SCORERS = ("clip", "pickscore", "aesthetic")
PSI = Psi({"clip": 1.0, "pickscore": 1.0}, "percentile")
Judgements = list[tuple[str, str, int | None]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path / "run", HAND_PAIRS, HAND_SCORES)


def world(seed: int, pairs: int = 120, images: int = 40) -> tuple[Judgements, dict[str, tuple[float, ...]]]:
    """Judgements with ties of labels and of scores."""
    random = np.random.default_rng(seed)
    judgements: Judgements = []
    for _ in range(pairs):
        one, two = random.choice(images, 2, replace=False)
        judgements.append((f"i{one}", f"i{two}", [0, 1, None][random.choice(3, p=[0.45, 0.45, 0.1])]))
    scores: dict[str, tuple[float, ...]] = {
        f"i{n}": (round(random.random(), 1), 20 + round(random.normal(), 2), 5 + random.normal()) for n in range(images)
    }
    return judgements, scores


# Slow versions: from a ranking's own rows, one pair at a time.


def psi_of(judgements: Judgements, scores: dict[str, Any]) -> dict[str, float]:
    used = {uid for a, b, preference in judgements if preference is not None for uid in (a, b)}
    found = {}
    for uid in used:
        shares = [sum(scores[other][k] < scores[uid][k] for other in used) / (len(used) - 1) for k in (0, 1)]
        found[uid] = sum(shares) / 2
    return found


def sides(judgements: Judgements) -> dict[str, tuple[str, str]]:
    return {f"pair-{i}": (a, b) if p == 0 else (b, a) for i, (a, b, p) in enumerate(judgements) if p is not None}


def margins(judgements: Judgements, scores: dict[str, Any]) -> dict[str, np.ndarray]:
    return {
        pair: np.array([np.float32(x) - np.float32(y) for x, y in zip(scores[w], scores[loser], strict=True)], float)
        for pair, (w, loser) in sides(judgements).items()
    }


def slow(metric: str, judgements: Judgements, scores: dict[str, Any]) -> dict[str, float]:
    psi, of_pair, margin = psi_of(judgements, scores), sides(judgements), margins(judgements, scores)
    w = {pair: psi[a] for pair, (a, _) in of_pair.items()}
    lost = {pair: psi[b] for pair, (_, b) in of_pair.items()}
    weights = fit_weights(np.array([margin[pair] for pair in sorted(margin)]))
    odds = {pair: float(margin[pair] @ weights) for pair in margin}
    if metric == "pareto":
        front, left, number = {}, set(margin), 1
        while left:
            beaten = {p for p in left for q in left if (margin[q] >= margin[p]).all() and (margin[q] > margin[p]).any()}
            front.update(dict.fromkeys(left - beaten, number))
            left, number = beaten, number + 1
        order = {pair: (front[pair], -odds[pair]) for pair in margin}
        return {pair: -1 - sum(other < order[pair] for other in order.values()) for pair in margin}
    formulas: dict[str, Callable[[str], float | None]] = {
        "qsd": lambda p: w[p] * (1 - lost[p]),
        "margin": lambda p: w[p] - lost[p],
        "winner": lambda p: w[p],
        "ratio": lambda p: w[p] / (w[p] + lost[p]) if w[p] + lost[p] else 0.5,
        "vote": lambda p: sum(m > 0 for m in margin[p]) + (w[p] - lost[p]) / 2,
        "mpcf": lambda p: w[p] - lost[p] if margin[p][2] >= -0.5 and margin[p][0] >= 0 else None,
        "consensus": lambda p: w[p] - lost[p] if (margin[p] > 1e-6).all() else None,
        "middle": lambda p: -abs(sum(w[q] - lost[q] < w[p] - lost[p] for q in margin) / (len(margin) - 1) - 0.6),
        "calibrated": lambda p: odds[p],
    }
    return {pair: value for pair in margin if (value := formulas[metric](pair)) is not None}


@pytest.mark.parametrize("metric", sorted(set(shipped_metrics()) - {"random"}))
@pytest.mark.parametrize("seed", [0, 1])
def test_a_metric_equals_its_slow_version(tmp_path: Path, metric: str, seed: int) -> None:
    judgements, scores = world(seed)
    run = make_run(tmp_path / "run", judgements, scores, SCORERS)
    report = ranked(run, metric=metric, psi=PSI)
    expected = slow(metric, judgements, scores)
    assert qualities(run) == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert report["pairs"] == report["base_pairs"] + sum(report["dropped_pairs"].values())
    assert [row["quality"] for row in ranking_rows(run)] == sorted(qualities(run).values(), reverse=True)


# Percentiles of HAND_SCORES' blend: a 1/6, b 1/6, c 5/6, d 5/6; margins (clip, pickscore) of the three pairs
# pair-0 (a over b): -0.1, 2; pair-1 (b over c): -0.1, -4; pair-3 (d over a): 0.3, 1.
HAND = {
    "ratio": {"pair-0": 1 / 2, "pair-1": 1 / 6, "pair-3": 5 / 6},
    "vote": {"pair-0": 1.0, "pair-1": -1 / 3, "pair-3": 2 + 1 / 3},
    "consensus": {"pair-3": 2 / 3},  # 5/6 - 1/6; CLIP is against the human in the other two
    "middle": {"pair-0": -0.1, "pair-1": -0.6, "pair-3": -0.4},  # margins 0, -2/3, 2/3 at percentiles 1/2, 0, 1
}


@pytest.mark.parametrize("metric", HAND)
def test_a_metric_equals_hand_worked_rows(run: Run, metric: str) -> None:
    ranked(run, metric=metric)
    assert qualities(run) == pytest.approx(HAND[metric])


def test_fronts_by_hand(run: Run) -> None:
    """pair-0 and pair-3 do not dominate each other; both dominate pair-1 (pair-0 by pickscore alone)."""
    ranked(run, metric="pareto")
    assert sorted(qualities(run).values()) == [-3, -2, -1]
    assert qualities(run)["pair-1"] == -3


def test_ratio_of_two_zeros_is_a_half(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [("a", "b", 0)], {"a": (0.1, 1.0), "b": (0.1, 1.0)})
    ranked(run, metric="ratio")
    assert qualities(run) == {"pair-0": 0.5}


def test_mpcf_thresholds_are_parameters(tmp_path: Path) -> None:
    judgements, scores = world(2)
    run = make_run(tmp_path / "run", judgements, scores, SCORERS)
    ranked(run, metric="mpcf", psi=PSI, params=("aesthetic_least=0.25", "clip_least=-0.1"))
    margin = margins(judgements, scores)
    expected = {pair for pair in margin if margin[pair][2] >= 0.25 and margin[pair][0] >= -0.1}
    assert 0 < len(expected) < len(margin)
    assert set(qualities(run)) == expected


def test_random_is_a_permutation_by_seed_alone(tmp_path: Path) -> None:
    judgements, scores = world(3, pairs=400)
    one = make_run(tmp_path / "one", judgements, scores, SCORERS)
    two = make_run(tmp_path / "two", judgements, dict.fromkeys(scores, (0.0, 0.0, 0.0)), SCORERS)
    for run in (one, two):
        ranked(run, "a", "random", PSI)
        ranked(run, "b", "random", PSI, params=("seed=1",))
    assert qualities(one, "a") == qualities(two, "a")
    assert list(qualities(one, "a")) != list(qualities(one, "b"))
    values = sorted(qualities(one, "a").values())
    assert values[0] >= 0
    assert values[-1] < 1
    assert np.abs(np.array(values) - np.linspace(0, 1, len(values))).max() < 0.08  # uniform: Kolmogorov-Smirnov


def test_reverse_selects_the_bottom(tmp_path: Path) -> None:
    judgements, scores = world(4)
    run = make_run(tmp_path / "run", judgements, scores, SCORERS)
    ranked(run, "best", psi=PSI, top="10")
    ranked(run, "worst", psi=PSI, top="10", reverse=True)
    by_quality = sorted(qualities(run, "best").items(), key=lambda item: (item[1], item[0]))
    assert selected(run, "worst") == [pair for pair, _ in by_quality[:10]]
    assert not set(selected(run, "best")) & set(selected(run, "worst"))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6), metric=st.sampled_from(sorted(shipped_metrics())))
def test_swapping_the_source_s_sides_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, seed: int, metric: str
) -> None:
    """Which image stood at 0 is an accident: with its preference turned round the ranking is the same."""
    judgements, scores = world(seed, pairs=30, images=12)
    swapped = [(b, a, None if p is None else 1 - p) for a, b, p in judgements]
    folder, found = tmp_path_factory.mktemp("swap"), []
    for name, given_pairs in (("straight", judgements), ("swapped", swapped)):
        run = make_run(folder / name, given_pairs, scores, SCORERS)
        ranked(run, metric=metric, psi=PSI)
        found.append(qualities(run))
    assert found[0] == pytest.approx(found[1], abs=1e-9)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 10**6),
    metric=st.sampled_from(["qsd", "margin", "winner", "ratio", "vote", "pareto"]),
    factor=st.sampled_from([0.5, 2.0, 8.0]),
)
def test_scaling_a_score_leaves_percentile_psi_alone(
    tmp_path_factory: pytest.TempPathFactory, seed: int, metric: str, factor: float
) -> None:
    judgements, scores = world(seed, pairs=30, images=12)
    scaled = {uid: (factor * a, b, c) for uid, (a, b, c) in scores.items()}
    folder, found = tmp_path_factory.mktemp("scale"), []
    for name, given_scores in (("one", scores), ("scaled", scaled)):
        run = make_run(folder / name, judgements, given_scores, SCORERS)
        ranked(run, metric=metric, psi=PSI)
        found.append(qualities(run))
    assert found[0] == pytest.approx(found[1], abs=1e-6)


# Nulls, NaN, infinities, constants, single pairs.


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_sets_its_pairs_aside(tmp_path: Path, value: float | None) -> None:
    run = make_run(tmp_path / "run", HAND_PAIRS, HAND_SCORES | {"d": (value, 21.0)})
    report = ranked(run)
    assert report["dropped_pairs"] == {"score_missing": 1, "tie": 1}
    assert set(qualities(run)) == {"pair-0", "pair-1"}


def test_a_score_outside_psi_may_be_missing(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", HAND_PAIRS, HAND_SCORES | {"d": (0.4, None)})
    clip = Psi({"clip": 1.0}, "percentile")
    assert ranked(run, psi=clip)["base_pairs"] == 3
    row = next(row for row in ranking_rows(run) if row["pair_id"] == "pair-3")
    assert (row["pickscore_preferred"], row["pickscore_margin"]) == (None, None)
    ranked(run, metric="vote", psi=clip)
    assert qualities(run)["pair-3"] == pytest.approx(1 + (1 - 0) / 2)  # pickscore has no vote
    for metric in ("calibrated", "pareto"):
        report = ranked(run, metric=metric, psi=clip)
        assert report["dropped_pairs"] == {"not_ranked": 1, "tie": 1}
        assert report["calibration"]["pairs"] == 2


@pytest.mark.parametrize("metric", sorted(set(shipped_metrics())))
def test_all_equal_scores_are_ranked_by_pair_id(tmp_path: Path, metric: str) -> None:
    scores = dict.fromkeys("abcd", (0.5, 20.0, 5.0))
    run = make_run(tmp_path / "run", HAND_PAIRS, scores, SCORERS)
    if metric == "consensus":  # no scorer agrees with anybody
        with pytest.raises(QueryError, match="it gave none of the 3 pairs a quality"):
            ranked(run, metric=metric, psi=PSI)
        return
    assert ranked(run, metric=metric, psi=PSI)["base_pairs"] == 3
    if metric != "random":
        assert list(qualities(run)) == ["pair-0", "pair-1", "pair-3"]


@pytest.mark.parametrize("metric", sorted(set(shipped_metrics())))
def test_one_pair(tmp_path: Path, metric: str) -> None:
    run = make_run(tmp_path / "run", [("a", "b", 0)], {"a": (0.9, 21.0, 6.0), "b": (0.1, 20.0, 5.0)}, SCORERS)
    report = ranked(run, metric=metric, psi=PSI, top="0.0533")
    assert (report["base_pairs"], report["selected_pairs"]) == (1, 1)
    assert ranking_rows(run)[0]["percentile"] == 1


@pytest.mark.parametrize("metric", sorted(set(shipped_metrics())))
def test_a_constant_label_is_no_obstacle(tmp_path: Path, metric: str) -> None:
    judgements, scores = world(5, pairs=30, images=12)
    run = make_run(tmp_path / "run", [(a, b, 0) for a, b, _ in judgements], scores, SCORERS)
    assert ranked(run, metric=metric, psi=PSI)["pairs"] == 30


# Parameters and headers.


def test_every_shipped_metric_states_its_purpose_and_source() -> None:
    for name in shipped_metrics():
        metric = load_metric(name)
        assert metric.purpose.endswith("."), name
        assert metric.source.endswith("."), name


@pytest.mark.parametrize(
    ("given_terms", "message"),
    [
        (["seed"], "--param seed: write NAME=VALUE"),
        (["sead=1"], "--param sead=1: metric random has no parameter 'sead'; did you mean 'seed'?"),
        (["seed=1.5"], "--param seed=1.5: give a whole number"),
        (["seed=-1"], "--param seed=-1: it lies outside 0 to 4294967295; another seed, another order."),
    ],
)
def test_impossible_parameters_are_refused(given_terms: list[str], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        parameter_values(load_metric("random"), given_terms)
    assert str(raised.value) == message


def test_a_parameter_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(UsageError, match="--param clip_least=x: give a number"):
        parameter_values(load_metric("mpcf"), ["clip_least=x"])
    with pytest.raises(UsageError, match="clip_least=nan: it lies outside -inf to inf"):
        parameter_values(load_metric("mpcf"), ["clip_least=nan"])


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (
            "-- Parameter: cut = 1",
            "'-- Parameter: cut = 1' is not understood; write",
        ),
        (
            "-- Parameter: cut integer = x from 0 to 1: a cut.",
            "parameter cut: default and range must be of kind",
        ),
        ("-- Parameter: cut number = 2 from 0 to 1: a cut.", "parameter cut: its default 2 lies outside 0 to 1"),
        ("-- Parameter: cut number = 1 from 0 to 1: a cut.", "the parameters declared are cut; the query uses none"),
    ],
)
def test_a_wrong_header_is_refused(run: Run, tmp_path: Path, header: str, message: str) -> None:
    path = tmp_path / "mine.sql"
    path.write_text(f"{header}\nselect pair_id, psi_preferred as quality from pair_scores")
    with pytest.raises(QueryError) as raised:
        ranked(run, metric=str(path))
    assert str(raised.value).startswith(f"{path}: ")
    assert message in str(raised.value)


def test_a_users_metric_has_parameters_blocks_and_the_calibrated_odds(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "mine.sql"
    path.write_text(
        """-- Parameter: cut number = 0.5 from 0 to 1: odds count so much.
select pair_scores.pair_id, $cut * log_odds
    -- each scorer
    + {scorer}_margin
    -- end
    as quality
from pair_scores join calibrated using (pair_id); -- the end
"""
    )
    report = ranked(run, metric=str(path), params=("cut=0",))
    assert qualities(run) == pytest.approx({"pair-0": 1.9, "pair-1": -4.1, "pair-3": 1.3}, abs=1e-5)
    assert report["params"] == {"cut": 0.0}
    assert "calibration" in report


@pytest.mark.parametrize(
    "sql",
    [
        "select pair_id, (select count(*) from read_text('{secret}')) as quality from pair_scores",
        "select pair_id, (select count(*) from '{secret}') as quality from pair_scores",
        "select pair_id, (select count(*) from glob('{folder}/*')) as quality from pair_scores",
        "select pair_id, (select count(*) from read_csv('http://localhost/x')) as quality from pair_scores",
        "attach '{folder}/other.duckdb' as other",
        "install httpfs",
        "load httpfs",
        "copy (select 1) to '{folder}/out.csv'",
        "set allowed_directories = ['/']",
        "create table pairs as select 1",
        "explain analyze copy (select 1) to '{folder}/out.csv'",
        "with x as (copy (select 1 as a) to '{run}/pairs.parquet') select pair_id, 1 as quality from pair_scores",
        "with x as (update psi set clip_score = 9 returning 1) select pair_id, 1 as quality from pair_scores",
        "with x as (delete from eligible returning 1) select pair_id, 1 as quality from pair_scores",
        "with x as (insert into left_out values (null, null) returning 1) select pair_id, 1 as quality from eligible",
        "select pair_id, 1 as quality from pair_scores, enable_logging(storage = 'file', storage_path = '{folder}')",
    ],
)
def test_a_metric_reads_the_run_and_nothing_else(run: Run, tmp_path: Path, sql: str) -> None:
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret.csv").write_text("a\n1\n")
    path = tmp_path / "mine.sql"
    path.write_text(sql.format(secret=folder / "secret.csv", folder=folder, run=run.root))
    before = run.pairs.read_bytes()
    with pytest.raises(QueryError) as raised:
        ranked(run, metric=str(path))
    assert str(raised.value).startswith(f"{path}: ")
    assert [item.name for item in folder.iterdir()] == ["secret.csv"]
    assert run.pairs.read_bytes() == before
    assert not run.rankings.exists()


def test_a_link_inside_the_run_leads_nowhere(run: Run, tmp_path: Path) -> None:
    (tmp_path / "secret.csv").write_text("a\n1\n")
    (run.root / "link.csv").symlink_to(tmp_path / "secret.csv")
    path = tmp_path / "mine.sql"
    path.write_text(f"select pair_id, (select count(*) from '{run.root}/link.csv') as quality from pair_scores")
    with pytest.raises(QueryError, match="Permission Error"):
        ranked(run, metric=str(path))


def test_a_variable_of_the_program_is_no_table(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "mine.sql"
    path.write_text("select pair_id, 1 as quality from pair_scores, scorers")
    with pytest.raises(QueryError, match="scorers does not exist"):
        ranked(run, metric=str(path))


@pytest.mark.parametrize("value", ["1", "[pair_id]", "{'id': pair_id}"])
def test_a_pair_id_is_text(run: Run, tmp_path: Path, value: str) -> None:
    path = tmp_path / "mine.sql"
    path.write_text(f"select {value} as pair_id, 1.0 as quality from pair_scores")
    with pytest.raises(QueryError, match="pair_id must be the pair's own, text; got"):
        ranked(run, metric=str(path))


def test_each_blocks_are_read_kindly(run: Run, tmp_path: Path) -> None:
    """Tabs, trailing blanks, no last newline; and a word that stands for nothing is a comment."""
    path = tmp_path / "mine.sql"
    path.write_text(
        "-- each pair is measured\nselect pair_id, quality from (select pair_id, 0\n"
        "\t-- each scorer \n+ {scorer}_margin\n\t-- end\nas quality from pair_scores)\n-- end"
    )
    ranked(run, metric=str(path))
    assert qualities(run) == pytest.approx({"pair-0": 1.9, "pair-1": -4.1, "pair-3": 1.3}, abs=1e-5)


# curate metrics


def test_the_list_names_every_metric_with_its_source(curate: Curate) -> None:
    out = curate("metrics").out
    for name in shipped_metrics():
        assert f"\n{name:<12}" in f"\n{out}"
        assert load_metric(name).source in out
    assert "--param seed=0, 0 to 4294967295: another seed, another order." in out


def test_check_reports_nulls_ties_range_and_likeness(tmp_path: Path) -> None:
    judgements, scores = world(6)
    run = make_run(tmp_path / "run", judgements, scores, SCORERS)
    path = tmp_path / "mine.sql"
    path.write_text("select pair_id, case when clip_margin <> 0 then sign(clip_margin) end as quality from pair_scores")
    report = check_metric(run, str(path), (), PSI)
    signs = [np.sign(m[0]) for m in margins(judgements, scores).values()]
    nonzero = [sign for sign in signs if sign]
    assert (report["pairs"], report["ranked"], report["nulls"]) == (len(signs), len(nonzero), signs.count(0))
    assert (report["distinct"], report["tied"]) == (2, len(nonzero))
    assert report["quality"] == {"least": -1, "greatest": 1, "median": np.median(nonzero)}
    assert {item["metric"] for item in report["against"]} == set(shipped_metrics())


def test_check_names_what_does_not_repeat(run: Run, tmp_path: Path, curate: Curate) -> None:
    path = tmp_path / "mine.sql"
    path.write_text(
        "-- not random() as `random` is\nselect pair_id, Random ( ) + epoch(now()) + year(current_date) as quality\n"
        "from pair_scores using sample 2 rows"
    )
    report = check_metric(run, str(path), (), BLEND)
    assert report["not_repeatable"] == ["current_date", "now", "random", "using sample"]
    said = curate("metrics", "check", path, "--run", run.root, "--psi", "clip,pickscore").out
    assert said.startswith(f"metric    {path}: not repeatable, by current_date, now, random, using sample\n")
    assert not any(
        check_metric(run, name, (), BLEND)["not_repeatable"] for name in ("random", "qsd", "calibrated", "vote")
    )


def test_check_agrees_with_scipy_and_with_itself(tmp_path: Path) -> None:
    from scipy.stats import spearmanr

    judgements, scores = world(7)
    run = make_run(tmp_path / "run", judgements, scores, SCORERS)
    path = tmp_path / "same.sql"
    path.write_text("select pair_id, 2 * (psi_preferred - psi_rejected) as quality from pair_scores")
    against = {item["metric"]: item for item in check_metric(run, str(path), (), PSI)["against"]}
    assert (against["margin"]["rank_correlation"], against["margin"]["shared"]) == (pytest.approx(1), 1)
    ours, other = slow("margin", judgements, scores), slow("vote", judgements, scores)
    expected = spearmanr([ours[pair] for pair in sorted(ours)], [other[pair] for pair in sorted(ours)]).statistic
    assert against["vote"]["rank_correlation"] == pytest.approx(expected, abs=1e-6)


def test_check_leaves_out_metrics_whose_scorer_the_run_lacks(run: Run, tmp_path: Path, curate: Curate) -> None:
    path = tmp_path / "mine.sql"
    path.write_text("select pair_id, clip_margin as quality from pair_scores")
    report = check_metric(run, str(path), (), BLEND)
    assert "mpcf" not in {item["metric"] for item in report["against"]}
    done = curate("metrics", "check", path, "--run", run.root, "--psi", "clip,pickscore")
    assert (done.code, done.err) == (0, "")
    assert "3 eligible = 3 with a quality + 0 without" in done.out


def test_check_refuses_what_rank_refuses(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "mine.sql"
    path.write_text("select pair_id, null::double as quality from pair_scores")
    with pytest.raises(QueryError, match="it gave none of the 3 pairs a quality"):
        check_metric(run, str(path), (), BLEND)
    with pytest.raises(UsageError, match="--psi-norm raw: pickscore runs from"):
        check_metric(run, "qsd", (), Psi({"pickscore": 1.0}, "raw"))
    with pytest.raises(RunError, match="can be ranked"):
        check_metric(make_run(tmp_path / "ties", [("a", "b", None)], HAND_SCORES), "qsd", (), BLEND)


def test_the_documents_metric_works(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "ranking.md").read_text()
    start = text.index("-- Purpose: how sure")
    path = tmp_path / "rare.sql"
    path.write_text(text[start : text.index("```", start)])
    judgements, scores = world(8)
    run = make_run(tmp_path / "run", judgements, scores, SCORERS)
    ranked(run, metric=str(path), psi=PSI, params=("cost=1",))
    odds = slow("calibrated", judgements, scores)
    expected = {pair: value - math.log(len(odds)) for pair, value in odds.items()}
    assert qualities(run) == pytest.approx(expected, abs=1e-6)


def test_a_metric_whose_scorer_the_run_lacks_says_so(run: Run) -> None:
    with pytest.raises(UsageError, match="metric mpcf needs the scorer 'aesthetic'; the run has clip, pickscore"):
        ranked(run, metric="mpcf")


@pytest.mark.parametrize(
    ("metric", "read"),
    [
        ("qsd", ["clip"]),
        ("random", []),
        ("vote", ["aesthetic", "clip", "pickscore"]),
        ("calibrated", ["aesthetic", "clip", "pickscore"]),
        ("mpcf", ["aesthetic", "clip"]),
    ],
)
def test_which_scorers_have_a_say(metric: str, read: list[str]) -> None:
    """psi weighs clip alone here; what a metric reads beside it counts too."""
    scorers = ["clip", "pickscore", "aesthetic"]
    assert scorers_of(load_metric(metric).sql(scorers), scorers, {"clip": 1.0}) == read
