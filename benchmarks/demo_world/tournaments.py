"""Jobs in which an annotator compares pictures of one prompt, and the winner stays for the next round."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.demo_world.annotators import Annotator, make_annotators
from benchmarks.demo_world.drawing import Order, random_order

CONTROL_UID = "767c0473-32cf-4d8b-9d82-25412a5f7f6d"
CONTROL_SHARE = 0.1  # of rounds: the newcomer is the control image
UNLABELLED_SHARE = 0.02  # of rounds: shown, never judged
JOBS_PER_PROMPT = 2
ROUNDS_OF_JOBS = (4, 5, 6, 7)  # drawn evenly


@dataclass(frozen=True)
class Job:
    """One annotator's sitting with one prompt: the first two pictures meet, then each in turn the winner."""

    prompt: str
    orders: tuple[Order, ...]


@dataclass(frozen=True)
class Round:
    """One row of the data set. `image_*` name a picture by uid; label_0 is None when it was not judged."""

    job: int
    prompt: str
    user_id: int
    image_uids: tuple[str, str]
    models: tuple[str, str]
    label_0: float | None


@dataclass(frozen=True)
class Contestant:
    """A picture in play."""

    image_uid: str
    model: str


def plan_jobs(prompts: Sequence[str], seed: int) -> list[Job]:
    """Every prompt in JOBS_PER_PROMPT jobs, with pictures for all rounds; jobs of a prompt are neighbours."""
    rng = np.random.default_rng(seed)
    picture_seeds = iter(range(1_000_000, 10_000_000))
    jobs = []
    for prompt in [prompt for prompt in prompts for _ in range(JOBS_PER_PROMPT)]:
        rounds = int(rng.choice(ROUNDS_OF_JOBS))
        jobs.append(Job(prompt, tuple(random_order(rng, prompt, next(picture_seeds)) for _ in range(rounds + 1))))
    return jobs


def play_jobs(jobs: Sequence[Job], truths: Mapping[tuple[str, str], float], seed: int) -> list[Round]:
    """All rounds of all jobs, each job by one annotator.

    truths: hidden truth of (prompt, image_uid), the control image included.
    """
    rng = np.random.default_rng(seed)
    annotators = make_annotators(rng)
    rounds: list[Round] = []
    for number, job in enumerate(jobs):
        annotator = annotators[int(rng.integers(len(annotators)))]
        rounds.extend(_play(number, job, annotator, truths, rng))
    return rounds


def _play(
    number: int, job: Job, annotator: Annotator, truths: Mapping[tuple[str, str], float], rng: np.random.Generator
) -> list[Round]:
    entrants = [Contestant(order.image_uid, order.model) for order in job.orders]
    standing = entrants.pop(0)
    rounds = []
    for newcomer in entrants:
        if rng.random() < CONTROL_SHARE:
            newcomer = Contestant(CONTROL_UID, "control")
        sides = (standing, newcomer) if rng.random() < 0.5 else (newcomer, standing)
        label_0 = annotator.judge(rng, *(truths[job.prompt, side.image_uid] for side in sides))
        judged = rng.random() >= UNLABELLED_SHARE
        rounds.append(_row(number, job.prompt, annotator, sides, label_0 if judged else None))
        if newcomer.image_uid != CONTROL_UID and judged:
            standing = _winner(rng, sides, label_0)
    return rounds


def _row(
    number: int, prompt: str, annotator: Annotator, sides: tuple[Contestant, Contestant], label_0: float | None
) -> Round:
    uids = (sides[0].image_uid, sides[1].image_uid)
    return Round(number, prompt, annotator.user_id, uids, (sides[0].model, sides[1].model), label_0)


def _winner(rng: np.random.Generator, sides: tuple[Contestant, Contestant], label_0: float) -> Contestant:
    if label_0 == 0.5:
        return sides[int(rng.integers(2))]
    return sides[0] if label_0 == 1.0 else sides[1]
