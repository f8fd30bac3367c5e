"""Jobs play by Pick-a-Pic's habits."""

import itertools

import numpy as np
import pytest

from benchmarks.demo_world.annotators import Annotator
from benchmarks.demo_world.pickapic import NO_BEST_IMAGE, SCHEMA, pairs_rows
from benchmarks.demo_world.tournaments import CONTROL_UID, Round, plan_jobs, play_jobs

PROMPTS = ["a small red ring on a white background", "a large blue cross on a pink background"] * 10


@pytest.fixture(scope="module")
def rounds() -> list[Round]:
    jobs = plan_jobs(PROMPTS, seed=1)
    rng = np.random.default_rng(2)
    truths = {(job.prompt, order.image_uid): -float(rng.random()) for job in jobs for order in job.orders}
    truths |= {(prompt, CONTROL_UID): -1.0 for prompt in PROMPTS}
    return play_jobs(jobs, truths, seed=3)


def test_the_winner_stays(rounds: list[Round]) -> None:
    for before, after in itertools.pairwise(rounds):
        if before.job == after.job and before.label_0 in (0.0, 1.0) and CONTROL_UID not in before.image_uids:
            winner = before.image_uids[0] if before.label_0 == 1.0 else before.image_uids[1]
            assert winner in after.image_uids


def test_the_control_image_never_stays(rounds: list[Round]) -> None:
    shown = [CONTROL_UID in round_.image_uids for round_ in rounds]
    assert 0.03 < np.mean(shown) < 0.2
    assert all(round_.image_uids[0] != round_.image_uids[1] for round_ in rounds)


def test_a_careful_annotator_follows_the_truth_and_a_random_one_does_not() -> None:
    rng = np.random.default_rng(0)
    careful = [Annotator(1, 0.004).judge(rng, -0.05, -0.10) for _ in range(300)]
    at_random = [Annotator(2, 1.0).judge(rng, -0.05, -0.10) for _ in range(300)]
    assert np.mean(careful) > 0.98
    assert 0.4 < np.mean(at_random) < 0.62
    assert Annotator(1, 1e-9).judge(rng, -0.05, -0.051) == 0.5


def test_rows_have_the_columns_and_complementary_labels(rounds: list[Round]) -> None:
    pictures = {uid: b"x" for round_ in rounds for uid in round_.image_uids}
    for row in pairs_rows(rounds, pictures):
        assert set(row) == set(SCHEMA.names)
        assert row["label_0"] + row["label_1"] == 1.0
        uids = (row["image_0_uid"], row["image_1_uid"])
        assert (row["best_image_uid"] == NO_BEST_IMAGE) == (row["label_0"] == 0.5)
        assert row["best_image_uid"] in (*uids, NO_BEST_IMAGE)
