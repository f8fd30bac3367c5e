"""What is left to do and how long it should take, from what the finished jobs took."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks.reproduction.arms import Job, all_arms, jobs_of
from benchmarks.reproduction.job import results_folder
from benchmarks.reproduction.tuning import final_arms

# On one of two busy cores, AMD EPYC (Zen 3, AVX2), float32: measured, see README.md. What the machine at hand took
# for the jobs that are done counts instead as soon as there are any.
SEC_PER_STEP, SEC_PER_SNAPSHOT, SEC_PER_JOB = 0.03, 0.7, 1.5
WORLD_SEC = 200.0  # base model, pictures, truths: once


def expected_sec(job: Job) -> float:
    """CPU seconds of one job by the constants above: steps, snapshots, and its share of the rankings."""
    snapshots = job.arm.snapshots
    batches = job.arm.training.batch_pairs / 16
    return SEC_PER_STEP * batches * snapshots[-1] + SEC_PER_SNAPSHOT * len(snapshots) + SEC_PER_JOB


def pace(work: Path, jobs: Sequence[Job]) -> float:
    """How much slower this machine is than the constants say, by the finished jobs; 1 when there is none."""
    took, expected = 0.0, 0.0
    for job in jobs:
        path = results_folder(work) / f"{job.key}.json"
        if path.exists():
            took += json.loads(path.read_text("utf-8"))["cpu_sec"]
            expected += expected_sec(job)
    return took / expected if expected else 1.0


def plan_lines(work: Path, experiments: Sequence[str] | None, workers: int) -> list[str]:
    """One line for each experiment, and the sum; `final` can only be counted once the tuning is done."""
    arms = [arm for arm in [*all_arms(), *final_arms(work)] if experiments is None or arm.experiment in experiments]
    jobs = jobs_of(arms)
    slower = pace(work, jobs)
    count, left, seconds = Counter[str](), Counter[str](), Counter[str]()
    for job in jobs:
        count[job.arm.experiment] += 1
        if not (results_folder(work) / f"{job.key}.json").exists():
            left[job.arm.experiment] += 1
            seconds[job.arm.experiment] += slower * expected_sec(job)  # type: ignore[assignment]
    lines = [f"{name:<12}{left[name]:>5} of {count[name]:>4} jobs left {seconds[name]:>8.0f} CPU s" for name in count]
    world = 0.0 if (work / "world.npz").exists() else slower * WORLD_SEC
    total = sum(seconds.values()) + world
    hours = total / workers / 3600
    return [
        *lines,
        f"{'all':<12}{sum(left.values()):>5} of {sum(count.values()):>4} jobs left {total:>8.0f} CPU s"
        f" (the world {world:.0f}): {hours:.2f} hours on {workers} free cores",
    ]
