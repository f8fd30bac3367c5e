"""What the finished jobs say, arm by arm: estimates at a step, and paired against another arm."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.reproduction.arms import Arm, Job, all_arms
from benchmarks.reproduction.job import results_folder
from benchmarks.reproduction.statistics import Estimate, estimate, paired_difference
from benchmarks.reproduction.tuning import final_arms

TEST = "test_truth"


@dataclass(frozen=True)
class ArmResult:
    """The results of one arm by seed; `by_seed` is empty where nothing is done yet."""

    arm: Arm
    by_seed: dict[int, dict[str, Any]]

    def values(self, step: int, name: str = TEST) -> dict[int, float]:
        """Seed -> a number of the curve at a step."""
        return {
            seed: point[name]
            for seed, result in self.by_seed.items()
            for point in result["curve"]
            if point["step"] == step
        }

    def at(self, step: int, name: str = TEST) -> Estimate:
        return estimate(list(self.values(step, name).values()))

    @property
    def last_step(self) -> int:
        return self.arm.snapshots[-1]

    @property
    def best_step(self) -> int:
        """The snapshot of the greatest mean validation truth: chosen without a look at the test prompts."""
        return max(
            self.arm.snapshots, key=lambda step: float(np.mean(list(self.values(step, "validation_truth").values())))
        )

    def against(self, other: "ArmResult", step: int, other_step: int) -> Estimate | None:
        """Paired by seed: this arm's test truth at `step` less the other's at `other_step`."""
        return paired_difference(self.values(step), other.values(other_step))

    def fact(self, name: str) -> float:
        """The mean over seeds of a fact of the selection, such as `right`."""
        return float(np.mean([result["selection"][name] for result in self.by_seed.values()]))


Results = dict[tuple[str, str], ArmResult]


def load_results(work: Path, arms: Iterable[Arm] | None = None) -> Results:
    """Every arm of which at least one seed is done, by (experiment, name), in the order of the arms."""
    found: Results = {}
    for arm in [*all_arms(), *final_arms(work)] if arms is None else arms:
        by_seed = {}
        for seed in arm.seeds:
            path = results_folder(work) / f"{Job(arm, seed).key}.json"
            if path.exists():
                by_seed[seed] = json.loads(path.read_text("utf-8"))
        if by_seed:
            found[arm.experiment, arm.name] = ArmResult(arm, by_seed)
    return found
