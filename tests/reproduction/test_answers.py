"""Answers from results written by hand."""

from pathlib import Path

import pytest

from benchmarks.reproduction import answers, result_tables
from benchmarks.reproduction.arms import TUNED_SNAPSHOTS, Job, tuning_arms
from benchmarks.reproduction.job import results_folder
from benchmarks.reproduction.results import ArmResult, Results, load_results
from benchmarks.reproduction.tuning import best_recipes, final_arms
from curate.storage.tables import write_text
from tests.reproduction.small import arm


def made(name: str, finals: list[float], early: float = 0.0, experiment: str = "main", **changes: object) -> ArmResult:
    """An arm with two snapshots, 1 and 3, whose last values are given by seed."""
    one = arm(name, experiment, seeds=tuple(range(len(finals))), **changes)
    selection = {"pairs": 10.0, "prompts": 5.0, "right": 0.75, "truth_preferred": 0.0, "truth_rejected": 0.0}
    curves = {
        seed: [
            {"step": step, "test_truth": value, "validation_truth": value, "test_wins": 0.5}
            for step, value in ((1, early + seed), (3, last))
        ]
        for seed, last in enumerate(finals)
    }
    return ArmResult(one, {seed: {"curve": curve, "selection": selection} for seed, curve in curves.items()})


def results(*arms: ArmResult) -> Results:
    return {(one.arm.experiment, one.arm.name): one for one in arms}


def test_better_worse_and_undecided() -> None:
    found = results(
        made("all", [1.0, 2.0, 3.0]),
        made("qsd", [2.0, 3.1, 3.9]),
        made("bottom", [0.0, 0.9, 2.1]),
        made("random", [1.0, 3.0, 2.0]),
    )
    told = [
        answers.verdict(answers.beats(found, name, "all"), "better", "worse") for name in ("qsd", "bottom", "random")
    ]
    assert [line.split(":")[0] for line in told] == ["better", "worse", "undecided"]
    assert told[0] == "better: +1.00 (+0.75 .. +1.25), 3 seeds"
    assert answers.verdict(answers.beats(found, "winner", "all"), "better", "worse") == "not measured yet"


def test_one_seed_answers_nothing() -> None:
    found = results(made("all", [1.0]), made("qsd", [2.0]))
    assert answers.verdict(answers.beats(found, "qsd", "all"), "better", "worse") == "open: +1.00 from one seed"


def test_the_turning_point_names_the_accuracies() -> None:
    found = results(
        made("all-60", [2.0, 2.0, 2.1], experiment="noise", accuracy=0.6),
        made("qsd-60", [1.0, 1.1, 1.0], experiment="noise", accuracy=0.6),
        made("all-90", [1.0, 1.0, 1.1], experiment="noise", accuracy=0.9),
        made("qsd-90", [2.0, 2.1, 2.0], experiment="noise", accuracy=0.9),
    )
    told = answers.turning_point(found)
    assert told[0] == "- 60 % of the judgements right: worse: -1.00 (-1.25 .. -0.75), 3 seeds."
    assert told[1].startswith("- 90 % of the judgements right: better: +1.00 (")
    assert "| 60 % | +2.03" in result_tables.noise_table(found)


def test_the_best_step_is_chosen_by_validation_and_what_is_lost_after_it_is_told() -> None:
    peaked = made("qsd", [1.0, 2.0, 3.0], early=4.0, experiment="long")
    rising = made("all", [5.0, 6.0, 7.0], experiment="long")
    assert (peaked.best_step, rising.best_step) == (1, 3)
    lines = answers.over_optimisation(results(peaked, rising))
    assert lines[0].startswith("- qsd: best at step 1 (0.4 epochs) by validation, +5.00")
    assert lines[0].endswith("from there to step 3: -3.00 (-3.00 .. -3.00).")
    assert lines[1].startswith("- all: still rising at step 3 (1.2 epochs)")


def test_metrics_are_put_in_order() -> None:
    found = results(made("qsd", [1.0, 1.1]), made("winner", [0.0, 0.3]), made("vote", [2.0, 2.2]))
    lines = answers.best_metric(found)
    assert lines[0].startswith("At equal steps, best first: vote, qsd, winner.")
    assert "Of the pairs" not in answers.winner(found)
    assert "had judged 75.0 % rightly" in answers.winner(found | results(made("all", [1.0, 1.0])))


def test_bold_means_that_zero_is_left_out() -> None:
    every, top = made("all", [1.0, 2.0, 3.0]), made("qsd", [2.0, 3.1, 3.9])
    assert result_tables.arm_row(top, every)[5] == "**+1.00 (+0.75 .. +1.25)**"
    assert result_tables.arm_row(every, every)[5] == ""


def tuning_result(work: Path, name: str, validation: float) -> None:
    """All tuning seeds of one cell done, the third snapshot best."""
    one = next(cell for cell in tuning_arms() if cell.name == name)
    for seed in one.seeds:
        values = {step: validation - (step != TUNED_SNAPSHOTS[2]) for step in TUNED_SNAPSHOTS}
        curve = [{"step": step, "validation_truth": value, "test_truth": -9} for step, value in values.items()]
        write_text(f'{{"curve": {curve!r}}}'.replace("'", '"'), results_folder(work) / f"{Job(one, seed).key}.json")


def test_a_recipe_is_chosen_only_when_the_whole_grid_is_there(tmp_path: Path) -> None:
    cells = [one.name for one in tuning_arms() if one.name.startswith("qsd ")]
    for number, name in enumerate(cells[:-1]):
        tuning_result(tmp_path, name, validation=float(number))
    assert best_recipes(tmp_path) == {}
    tuning_result(tmp_path, cells[-1], validation=3.5)
    best = best_recipes(tmp_path)
    (final,) = final_arms(tmp_path)
    rate, beta, steps, validation = best["qsd"]
    assert (validation, steps) == (7.0, TUNED_SNAPSHOTS[2])
    assert f"qsd lr {rate:g} beta {beta:g}" == cells[7]
    assert (final.training.learning_rate, final.training.beta, final.snapshots) == (rate, beta, (steps,))
    assert load_results(tmp_path, [final]) == {}


@pytest.mark.parametrize("name", ["best_metric", "over_optimisation", "turning_point"])
def test_nothing_is_said_of_nothing(name: str) -> None:
    assert getattr(answers, name)({}) == [answers.UNKNOWN]
