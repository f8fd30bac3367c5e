"""Simulated annotators: they see the hidden truth through noise of their own, and call small gaps a tie."""

from dataclasses import dataclass

import numpy as np

TIE_GAP = 0.006  # perceived difference of truth (root mean square RGB) below which neither is preferred
CAREFUL, ORDINARY, CARELESS, AT_RANDOM = 0.004, 0.015, 0.04, 1.0
# Users draw jobs evenly, so these counts are also the shares of jobs.
NOISE_OF_USERS = (CAREFUL,) * 6 + (ORDINARY,) * 11 + (CARELESS,) * 4 + (AT_RANDOM,) * 3


@dataclass(frozen=True)
class Annotator:
    """One user; `noise` is the scale of a logistic error added to the difference of truths."""

    user_id: int
    noise: float

    def judge(self, rng: np.random.Generator, truth_0: float, truth_1: float) -> float:
        """label_0: 1 when the first picture is preferred, 0 the second, 0.5 a tie."""
        perceived = truth_0 - truth_1 + float(rng.logistic(0.0, self.noise))
        if abs(perceived) < TIE_GAP:
            return 0.5
        return 1.0 if perceived > 0 else 0.0


def make_annotators(rng: np.random.Generator) -> list[Annotator]:
    """All users, in shuffled order so that ids do not tell who is careful."""
    noises = rng.permutation(np.array(NOISE_OF_USERS))
    return [Annotator(user_id, float(noise)) for user_id, noise in enumerate(noises, start=1)]
