"""The experiments: every arm with its selection and training, in order of importance. Data, not code.

All arms start from one recipe, SHARED, and differ in what their table says. A run is one arm under one seed; the
seed decides the annotators' errors, the scorers' noise, the order of training, the noise of every draw, and the
noise that pictures are drawn from, alike for all arms of a seed.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

from benchmarks.reproduction.curation import Selection
from benchmarks.reproduction.judges import SCORERS
from benchmarks.reproduction.trainer import Training

ACCURACY = 0.74
SHARED = Training(learning_rate=3e-5, beta=500.0, steps=200, batch_pairs=16)
LORA_RATE = 3e-4
SEEDS = tuple(range(5))
TUNING_SEEDS = (100, 101)  # never reported: they choose each arm's own recipe
SNAPSHOTS = (25, 50, 100, 200)
LONG_SNAPSHOTS = (25, 41, 50, 100, 200, 384, 768)  # 41 and 768 steps are one epoch of 5.33 % and of all pairs
TUNED_RATES = (2e-5, 5e-5, 1.2e-4)
TUNED_BETAS = (100.0, 500.0, 2500.0)
TUNED_SNAPSHOTS = (25, 50, 100, 200, 400)
TUNED_ARMS = ("all", "random", "qsd", "winner", "margin", "calibrated", "top-20")

BLEND = ",".join(SCORERS)
ALL, RANDOM, QSD = Selection(top="1.0"), Selection(metric="random"), Selection()


@dataclass(frozen=True)
class Arm:
    """One line of a table of results. priority: smaller ones are run earlier; two seeds weigh as one step of it."""

    experiment: str
    name: str
    selection: Selection
    training: Training = SHARED
    accuracy: float = ACCURACY
    snapshots: tuple[int, ...] = SNAPSHOTS
    seeds: tuple[int, ...] = SEEDS
    priority: int = 0


@dataclass(frozen=True)
class Job:
    """One arm under one seed. Two arms of equal settings are one job: `key` depends on what is computed alone."""

    arm: Arm
    seed: int

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides the result, but for the world and the code."""
        arm = self.arm
        return {
            "selection": asdict(arm.selection),
            "training": asdict(arm.training),
            "accuracy": arm.accuracy,
            "snapshots": list(arm.snapshots),
            "seed": self.seed,
        }

    @property
    def key(self) -> str:
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:16]


def main_arms() -> list[Arm]:
    """All pairs, chance, each scorer, each metric, and the worst pairs: one recipe for all."""
    selections = {
        "all": ALL,
        "random": RANDOM,
        "qsd": QSD,
        "bottom": replace(QSD, reverse=True),
        **{f"qsd-{scorer}": replace(QSD, psi=scorer) for scorer in SCORERS if scorer != QSD.psi},
        "qsd-blend": replace(QSD, psi=BLEND),
        **{
            name: Selection(metric=name)
            for name in ("margin", "winner", "ratio", "vote", "calibrated", "pareto", "middle")
        },
        # These rank a part of the pairs: as many as 5.33 % of all.
        **{name: Selection(metric=name, top="655") for name in ("mpcf", "consensus")},
        **{f"{name}-blend": Selection(metric=name, psi=BLEND) for name in ("margin", "winner")},
    }
    return [
        Arm("main", name, selection, priority=0 if name in ("all", "random", "qsd") else 1)
        for name, selection in selections.items()
    ]


def share_arms() -> list[Arm]:
    """How much to keep, by qsd."""
    shares = {"1": "0.01", "2": "0.02", "5.33": "0.0533", "10": "0.1", "20": "0.2", "50": "0.5", "100": "1.0"}
    return [Arm("shares", f"top-{name}", replace(QSD, top=top), priority=2) for name, top in shares.items()]


def noise_arms() -> list[Arm]:
    """How often the annotators are right."""
    arms = {"all": ALL, "random": RANDOM, "qsd": QSD}
    return [
        Arm("noise", f"{name}-{round(100 * accuracy)}", selection, accuracy=accuracy, priority=2)
        for accuracy in (0.6, 0.7, ACCURACY, 0.8, 0.9, 1.0)
        for name, selection in arms.items()
    ]


def tuning_arms() -> list[Arm]:
    """Each main arm under every recipe of the grid: to be looked at on the validation prompts only."""
    return [
        Arm(
            "tuning",
            recipe_name(name, rate, beta),
            selection,
            tuned(rate, beta),
            snapshots=TUNED_SNAPSHOTS,
            seeds=TUNING_SEEDS,
            priority=3,
        )
        for name, selection in tuned_selections().items()
        for rate, beta in product(TUNED_RATES, TUNED_BETAS)
    ]


def tuned_selections() -> dict[str, Selection]:
    """The arms that are also compared each at its own best recipe."""
    known = {arm.name: arm.selection for arm in [*main_arms(), *share_arms()]}
    return {name: known[name] for name in TUNED_ARMS}


def tuned(rate: float, beta: float) -> Training:
    """A recipe of the grid; its number of steps is chosen among the snapshots."""
    return replace(SHARED, learning_rate=rate, beta=beta, steps=TUNED_SNAPSHOTS[-1])


def recipe_name(arm: str, rate: float, beta: float) -> str:
    """How a cell of the grid is called."""
    return f"{arm} lr {rate:g} beta {beta:g}"


def long_arms() -> list[Arm]:
    """Many epochs of few pairs, one epoch of all: where over-optimisation begins, and arms at equal epochs."""
    training = replace(SHARED, steps=LONG_SNAPSHOTS[-1])
    arms = {"all": ALL, "random": RANDOM, "qsd": QSD, "top-20": replace(QSD, top="0.2")}
    return [
        Arm("long", name, selection, training, snapshots=LONG_SNAPSHOTS, priority=3) for name, selection in arms.items()
    ]


def objective_arms() -> list[Arm]:
    """The other objectives on all, random and top pairs."""
    return [
        Arm("objectives", f"{objective} {name}", selection, replace(SHARED, objective=objective), priority=4)
        for objective in ("dpo", "ipo", "slic-hf", "orpo")
        for name, selection in (("all", ALL), ("random", RANDOM), ("qsd", QSD))
    ]


def lora_arms() -> list[Arm]:
    """LoRA of rising rank, on all pairs and on the top."""
    return [
        Arm(
            "lora",
            f"rank {rank} {name}",
            selection,
            replace(SHARED, learning_rate=LORA_RATE, lora_rank=rank),
            priority=5,
        )
        for rank in (4, 8, 16, 32, 64)
        for name, selection in (("all", ALL), ("qsd", QSD))
    ]


def choice_arms() -> list[Arm]:
    """How psi is normalised, caps per prompt, diversity; order of training; weights instead of a cut."""
    weighted = replace(SHARED, own=(("weight_by", "quality"),))
    table: dict[str, tuple[Selection, Training]] = {
        "percentile": (QSD, SHARED),
        "minmax": (replace(QSD, psi_norm="minmax"), SHARED),
        "raw": (replace(QSD, psi_norm="raw"), SHARED),
        "1 a prompt": (replace(QSD, max_per_prompt=1), SHARED),
        "2 a prompt": (replace(QSD, max_per_prompt=2), SHARED),
        "diversity 0.3": (replace(QSD, diversity=0.3), SHARED),
        "diversity 0.7": (replace(QSD, diversity=0.7), SHARED),
        "qsd, best first": (QSD, replace(SHARED, order="ranked")),
        "qsd, best last": (QSD, replace(SHARED, order="reversed")),
        "top 20 %, best first": (replace(QSD, top="0.2"), replace(SHARED, order="ranked")),
        "top 20 %, best last": (replace(QSD, top="0.2"), replace(SHARED, order="reversed")),
        "all, best first": (ALL, replace(SHARED, order="ranked")),
        "all, drawn by quality": (ALL, replace(SHARED, order="weighted")),
        "all, loss by quality": (ALL, weighted),
    }
    return [Arm("choices", name, selection, training, priority=4) for name, (selection, training) in table.items()]


def all_arms() -> list[Arm]:
    """Every arm but those of `final`, which the tuning decides."""
    makers = (main_arms, noise_arms, share_arms, tuning_arms, objective_arms, choice_arms, lora_arms, long_arms)
    return [arm for maker in makers for arm in maker()]


def jobs_of(arms: list[Arm]) -> list[Job]:
    """Each job once, in the order of work: the most important first, then seed by seed."""
    order = sorted(
        (
            (arm.priority + arm.seeds.index(seed) / 2, arm.priority, number, seed)
            for number, arm in enumerate(arms)
            for seed in arm.seeds
        )
    )
    unique: dict[str, Job] = {}
    for _, _, number, seed in order:
        job = Job(arms[number], seed)
        unique.setdefault(job.key, job)
    return list(unique.values())
