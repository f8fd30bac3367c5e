"""Who judges the pictures: simulated annotators who err, and synthetic scorers. Each sees the hidden truth askew.

The scorers are named after what they stand in for. They are no models: each is the truth, standardised, plus a
bias that a real scorer of that kind may have, plus noise of its own. What they share is the truth alone.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

ANNOTATORS = 24
_LABELS, _SCORES, _PROMPT_BIAS = range(3)  # streams of one seed that never meet


@dataclass(frozen=True)
class Scorer:
    """score = mean + spread * z, z standardised from: truth + colour * colourfulness + prompt * bias of the prompt
    + noise. All but the noise's tail are in standard deviations over all pictures.

    heavy_tail: the noise has Student's t of 3 degrees of freedom, brought to the same standard deviation.
    """

    noise: float
    mean: float
    spread: float
    truth: float = 1.0
    colour: float = 0.0
    prompt: float = 0.0
    heavy_tail: bool = False


SCORERS = {
    "hpsv2": Scorer(noise=0.5, mean=0.27, spread=0.02),
    "pickscore": Scorer(noise=0.7, colour=0.2, mean=20.5, spread=1.2),
    "clip": Scorer(noise=1.0, prompt=0.7, mean=0.26, spread=0.03),
    "aesthetic": Scorer(truth=0.5, noise=1.0, colour=0.8, mean=5.6, spread=0.5),
    "image_reward": Scorer(noise=0.8, heavy_tail=True, mean=0.2, spread=0.9),
}


def scores(
    scorer: str,
    truth: Float[np.ndarray, " picture"],
    colourfulness: Float[np.ndarray, " picture"],
    prompt: Int[np.ndarray, " picture"],
    seed: int,
) -> Float[np.ndarray, " picture"]:
    """What a scorer says of each picture; its noise is drawn once per picture, from the seed and its name.

    prompt: the number of each picture's prompt.
    """
    kind, number = SCORERS[scorer], list(SCORERS).index(scorer)
    rng = np.random.default_rng((seed, _SCORES, number))
    noise = rng.standard_t(3, len(truth)) / np.sqrt(3) if kind.heavy_tail else rng.standard_normal(len(truth))
    of_prompt = np.random.default_rng((seed, _PROMPT_BIAS, number)).standard_normal(int(prompt.max()) + 1)
    seen = kind.truth * standardised(truth) + kind.colour * standardised(colourfulness)
    seen = seen + kind.prompt * of_prompt[prompt] + kind.noise * noise
    return np.asarray(kind.mean + kind.spread * standardised(seen), np.float32)


def standardised(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Mean 0, standard deviation 1."""
    return np.asarray((values - values.mean()) / values.std(), np.float64)


def judgements(truth: Float[np.ndarray, "pair 2"], accuracy: float, seed: int) -> Int[np.ndarray, " pair"]:
    """Which side of each pair is preferred, 0 or 1, by annotators of whom a share `accuracy` is right on the whole.

    An annotator prefers side 0 when truth_0 - truth_1 + s * logistic noise > 0, as in `demo_world.annotators`: pairs
    that differ little are judged wrongly more often. s is such that the expected share is `accuracy`.
    """
    gap = truth[:, 0] - truth[:, 1]
    noise = np.random.default_rng((seed, _LABELS)).logistic(0.0, 1.0, len(gap))
    return np.asarray(gap + noise_scale(gap, accuracy) * noise <= 0, np.int8)


def noise_scale(gap: Float[np.ndarray, " pair"], accuracy: float) -> float:
    """The s of `judgements`, found by bisection; 0 for annotators who never err.

    Raises: ValueError outside (0.5, 1].
    """
    if not 0.5 < accuracy <= 1:
        raise ValueError(f"annotators can be right in a share of more than 0.5 and at most 1, not {accuracy}")
    if accuracy == 1:
        return 0.0
    size, low, high = np.abs(gap), 1e-6, 1e6
    for _ in range(200):
        middle = float(np.sqrt(low * high))
        right = float(np.mean(1 / (1 + np.exp(-np.clip(size / middle, 0, 700)))))
        low, high = (middle, high) if right > accuracy else (low, middle)
    return middle
