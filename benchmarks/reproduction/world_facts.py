"""What a reader must know of the world: how good its pictures are, how far scorers and annotators can be trusted."""

from typing import Any

import numpy as np

from benchmarks.reproduction.arms import ACCURACY, SEEDS
from benchmarks.reproduction.judges import SCORERS, judgements, scores
from benchmarks.reproduction.result_tables import markdown
from benchmarks.reproduction.world import World


def world_facts(world: World) -> dict[str, Any]:
    """Counts, moments of the truth, the annotators' share of right judgements, and the scorers' table."""
    pairs = world.truth.reshape(-1, 2)
    gap = float(np.abs(pairs[:, 0] - pairs[:, 1]).mean())
    right = [np.mean((pairs[:, 0] < pairs[:, 1]) == judgements(pairs, ACCURACY, seed)) for seed in SEEDS]
    return {
        "pairs": f"{world.pairs:,}",
        "prompts": f"{len(world.prompts):,}",
        "held_out": len(world.test_prompts),
        "truth_mean": f"{world.truth.mean():.2f}",
        "truth_sd": f"{world.truth.std():.2f}",
        "gap": f"{gap:.2f}",
        "half_gap": f"{gap / 2:.2f}",
        "right": f"{100 * np.mean(right):.1f}",
        "scorer_table": scorer_table(world),
    }


def scorer_table(world: World) -> str:
    """Each synthetic scorer: what it is made of, and how well it sees the truth, over the reported seeds."""
    prompt = np.repeat(world.prompt_of_pair, 2)
    better = world.truth[0::2] > world.truth[1::2]
    rows = []
    for name, scorer in SCORERS.items():
        seen = [scores(name, world.truth, world.colourfulness, prompt, seed) for seed in SEEDS]
        correlation = np.mean([np.corrcoef(one, world.truth)[0, 1] for one in seen])
        agreement = np.mean([np.mean((one[0::2] > one[1::2]) == better) for one in seen])
        rows.append(
            (
                f"`{name}`",
                f"{scorer.truth:g}",
                f"{scorer.noise:g}" + (" (heavy tail)" if scorer.heavy_tail else ""),
                f"{scorer.colour:g}",
                f"{scorer.prompt:g}",
                f"{correlation:.2f}",
                f"{100 * agreement:.0f} %",
            )
        )
    head = ("scorer", "truth", "noise", "colourfulness", "bias of the prompt", "correlation with truth", "right of two")
    return markdown(head, rows)
