"""Each arm's own best recipe: chosen by the validation prompts under tuning seeds, reported on the test prompts."""

import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np

from benchmarks.reproduction.arms import (
    TUNED_BETAS,
    TUNED_RATES,
    Arm,
    Job,
    recipe_name,
    tuned,
    tuned_selections,
    tuning_arms,
)
from benchmarks.reproduction.job import results_folder


def validation_curves(work: Path, arm: Arm) -> dict[int, list[float]]:
    """Step -> change of the validation truth under each tuning seed that is done."""
    found: dict[int, list[float]] = {}
    for seed in arm.seeds:
        path = results_folder(work) / f"{Job(arm, seed).key}.json"
        if path.exists():
            for point in json.loads(path.read_text("utf-8"))["curve"]:
                found.setdefault(point["step"], []).append(point["validation_truth"])
    return found


def best_recipes(work: Path) -> dict[str, tuple[float, float, int, float]]:
    """Arm -> (learning rate, beta, steps, validation truth) of the best cell whose every tuning seed is done.

    An arm with cells that are not done is left out: its best would be the best of what happens to be there.
    """
    arms = {arm.name: arm for arm in tuning_arms()}
    best: dict[str, tuple[float, float, int, float]] = {}
    for name in tuned_selections():
        cells = []
        for rate, beta in product(TUNED_RATES, TUNED_BETAS):
            arm = arms[recipe_name(name, rate, beta)]
            curves = validation_curves(work, arm)
            if len(curves) < len(arm.snapshots) or any(len(values) < len(arm.seeds) for values in curves.values()):
                break
            cells += [(rate, beta, step, float(np.mean(values))) for step, values in curves.items()]
        else:
            best[name] = max(cells, key=lambda cell: cell[3])
    return best


def final_arms(work: Path) -> list[Arm]:
    """The tuned arms, each at its own best recipe, for the seeds that are reported."""
    selections = tuned_selections()
    return [
        Arm("final", name, selections[name], replace(tuned(rate, beta), steps=steps), snapshots=(steps,))
        for name, (rate, beta, steps, _) in best_recipes(work).items()
    ]
