"""A tiny world and arms of a few steps."""

from typing import Any

from benchmarks.reproduction.arms import Arm
from benchmarks.reproduction.curation import Selection
from benchmarks.reproduction.trainer import Training
from benchmarks.reproduction.world import Size

SIZE = Size(prompts=6, held_out=12, base_steps=4)
TRAINING = Training(learning_rate=1e-3, steps=3, batch_pairs=4)


def arm(name: str = "qsd", experiment: str = "main", **changes: Any) -> Arm:
    """An arm of three steps and one seed; `all` and `qsd` know their selection."""
    selection = Selection(top="1.0") if name == "all" else Selection(top="0.2")
    given: dict[str, Any] = {"selection": selection, "training": TRAINING, "snapshots": (1, 3), "seeds": (0,)}
    return Arm(experiment, name, **(given | changes))
