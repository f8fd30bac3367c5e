from collections import Counter
from typing import Any

import pytest

from benchmarks.reproduction.arms import ACCURACY, SEEDS, SHARED, TUNING_SEEDS, Arm, Job, all_arms, jobs_of, main_arms
from benchmarks.reproduction.curation import Selection
from curate.rank.metrics.metric import shipped_metrics
from tests.reproduction.small import arm


def test_every_shipped_metric_and_scorer_has_an_arm() -> None:
    arms = main_arms()
    assert set(shipped_metrics()) <= {one.selection.metric for one in arms}
    assert {"all", "random", "bottom", "qsd-blend", "qsd-clip", "qsd-aesthetic"} <= {one.name for one in arms}
    assert {one.training for one in arms} == {SHARED}
    assert {one.accuracy for one in arms} == {ACCURACY}


def test_names_are_unique_and_settings_are_sound() -> None:
    arms = all_arms()
    assert max(Counter((one.experiment, one.name) for one in arms).values()) == 1
    for one in arms:
        assert one.snapshots[-1] <= one.training.steps
        one.training.recipe(0)
        one.selection.options("name", 0)


def test_reported_arms_have_five_seeds_that_no_tuning_has_seen() -> None:
    for one in all_arms():
        assert one.seeds == (TUNING_SEEDS if one.experiment == "tuning" else SEEDS)
    assert len(SEEDS) >= 5
    assert not set(SEEDS) & set(TUNING_SEEDS)


def test_equal_settings_are_one_job_and_come_at_their_first_place() -> None:
    arms = [arm("a", priority=0), arm("b", priority=1, accuracy=0.9), arm("c", "other", priority=5)]
    jobs = jobs_of(arms)
    assert [job.arm.name for job in jobs] == ["a", "b"]
    assert Job(arms[0], 0).key == Job(arms[2], 0).key != Job(arms[1], 0).key


@pytest.mark.parametrize(
    "changes", [{"selection": Selection(metric="winner")}, {"snapshots": (1, 2)}, {"accuracy": 1.0}], ids=str
)
def test_whatever_changes_a_result_changes_the_key(changes: dict[str, Any]) -> None:
    assert Job(arm(), 0).key != Job(arm(**changes), 0).key
    assert Job(arm(), 0).key != Job(arm(), 1).key


def test_important_arms_and_first_seeds_come_first() -> None:
    jobs = jobs_of(all_arms())
    assert [(job.arm.name, job.seed) for job in jobs[:3]] == [("all", 0), ("random", 0), ("qsd", 0)]
    first_seed: dict[tuple[str, int], int] = {}
    for place, job in enumerate(jobs):
        first_seed.setdefault((job.arm.experiment, job.seed), place)
    assert all(first_seed[name, seed] >= first_seed[name, 0] for name, seed in first_seed if (name, 0) in first_seed)
    assert isinstance(jobs[0].arm, Arm)
