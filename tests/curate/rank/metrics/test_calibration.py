"""The calibration against a plain Newton method, known weights, and judgements that leave nothing to learn."""

from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from curate.rank.metrics.calibration import RIDGE, Calibration, calibrate, calibration_bins, fit_weights
from curate.rank.stdout import rank_lines
from tests.curate.runs import HAND_SCORES, make_run, ranked

TRUE = np.array([3.0, -1.0])


def judged(pairs: int, seed: int = 0) -> np.ndarray:
    """(pairs, 2) margins whose signs a Bradley-Terry human with the weights TRUE chose."""
    random = np.random.default_rng(seed)
    margins = random.normal(size=(pairs, 2))
    right = random.random(pairs) < 1 / (1 + np.exp(-margins @ TRUE))
    return np.where(right[:, None], margins, -margins)


def newton(margins: np.ndarray) -> np.ndarray:
    """The penalised likelihood's maximum, step by step, in units of each margin's root mean square."""
    scale = np.sqrt((margins**2).mean(axis=0))
    x, weights = margins / scale, np.zeros(margins.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(-x @ weights))
        gradient = x.T @ (1 - p) - RIDGE * weights
        hessian = -(x * (p * (1 - p))[:, None]).T @ x - RIDGE * np.eye(len(weights))
        weights = weights - np.linalg.solve(hessian, gradient)
    return weights / scale


def connection(margins: np.ndarray, prompts: int = 50) -> duckdb.DuckDBPyConnection:
    columns = {"clip_margin": margins[:, 0], "hpsv2_margin": margins[:, 1]}
    rows = np.arange(len(margins))
    table = pa.table({"pair_id": [f"{i:06d}" for i in rows], "prompt_id": [f"p{i % prompts}" for i in rows]} | columns)
    found = duckdb.connect()
    found.register("given", table)
    found.execute("create table pair_scores as from given")
    return found


def fitted(margins: np.ndarray, prompts: int = 50) -> Calibration:
    return calibrate(connection(margins, prompts), ["clip", "hpsv2"])


@pytest.mark.parametrize("pairs", [3, 40, 2000])
def test_the_weights_are_newtons(pairs: int) -> None:
    margins = judged(pairs)
    assert fit_weights(margins) == pytest.approx(newton(margins), rel=1e-4)


def test_known_weights_come_back_and_probabilities_are_honest() -> None:
    found = fitted(judged(40_000))
    assert list(found.weights.values()) == pytest.approx(TRUE, rel=0.05)
    assert sum(item.pairs for item in found.bins) == found.pairs == 40_000
    for item in found.bins:
        assert item.low <= item.predicted <= item.high
        assert item.observed == pytest.approx(item.predicted, abs=0.03)


def test_swapping_which_side_was_preferred_negates_the_weights() -> None:
    assert fit_weights(-judged(500)) == pytest.approx(-fit_weights(judged(500)))


def test_scaling_a_score_scales_its_weight_back() -> None:
    margins = judged(500)
    assert fit_weights(margins * [10, 1]) == pytest.approx(fit_weights(margins) / [10, 1])


def test_a_prompt_is_judged_by_weights_of_the_other_half_only() -> None:
    """Where the halves contradict each other, weights from the one are always wrong about the other."""
    prompts = 50
    folds = duckdb.execute(f"select md5_number_lower('p' || i) % 2 from range({prompts}) as t(i) order by i").fetchall()
    fold = np.array([folds[pair % prompts][0] for pair in range(400)])
    margins = np.zeros((400, 2))
    margins[:, 0] = np.where(fold == 0, 1, -1) * np.random.default_rng(0).uniform(0.5, 1, 400)
    assert 0 < fold.mean() < 1
    assert fitted(margins, prompts).held_out_accuracy == 0


def test_a_constant_scorer_gets_no_weight() -> None:
    margins = judged(200)
    margins[:, 1] = 0
    assert fitted(margins).weights["hpsv2"] == 0


def test_judgements_that_all_scorers_share_stay_finite() -> None:
    found = fitted(np.abs(judged(200)))
    assert np.isfinite(list(found.weights.values())).all()
    assert found.held_out_accuracy == 1


def test_two_prompts_in_one_half_are_said_to_be_too_few(tmp_path: Path) -> None:
    judgements: list[tuple[str, str, int | None]] = [("a", "b", 0), ("a", "c", 0), ("d", "b", 0), ("d", "c", 0)]
    run = make_run(tmp_path / "run", judgements, HAND_SCORES, prompts=list("ppqq"))
    report = ranked(run, metric="calibrated")
    assert report["coverage"]["prompts"] == 2
    assert "          nothing held out: too few prompts" in rank_lines(report, "run")


def test_one_prompt_has_no_held_out_figures() -> None:
    found = fitted(judged(30), prompts=1)
    assert (found.held_out_accuracy, found.held_out_log_loss, found.bins) == (None, None, [])
    assert "held_out_accuracy" not in found.report()


def test_no_pair_gives_no_weight() -> None:
    assert fitted(judged(0)).weights == {"clip": 0, "hpsv2": 0}


def test_pairs_without_a_margin_take_no_part() -> None:
    margins = judged(100)
    found = connection(margins)
    found.execute("update pair_scores set hpsv2_margin = null where pair_id = '000003'")
    kept = np.delete(margins, 3, axis=0)
    weights = calibrate(found, ["clip", "hpsv2"]).weights
    assert list(weights.values()) == pytest.approx(fit_weights(kept))


def test_the_order_of_rows_does_not_matter() -> None:
    margins = judged(300)
    found = connection(margins)
    found.execute("create or replace table pair_scores as from pair_scores order by pair_id desc")
    assert calibrate(found, ["clip", "hpsv2"]) == fitted(margins)


def test_bins_by_hand() -> None:
    log_odds = np.log([0.52 / 0.48, 0.48 / 0.52, 0.97 / 0.03, 1.0])
    first, last = calibration_bins(log_odds)
    assert (first.low, first.pairs, first.observed) == (0.5, 3, pytest.approx(0.5))  # right, wrong, indifferent
    assert (last.pairs, last.predicted, last.observed) == (1, pytest.approx(0.97), 1.0)
