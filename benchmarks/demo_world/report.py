"""world.json: what the world holds, and how far its judges agree with the hidden truth and with people."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.demo_world import aesthetic
from benchmarks.demo_world.preferences import Preference, cosines, usable_preferences
from benchmarks.demo_world.scenes import Picture
from benchmarks.demo_world.seeds import SEEDS
from benchmarks.demo_world.tournaments import CONTROL_UID, Round
from benchmarks.demo_world.towers import Tower

Truths = Mapping[tuple[str, str], float]


def write_report(
    path: Path,
    out: Path,
    rounds: Sequence[Round],
    truths: Truths,
    held: Sequence[Preference],
    pictures: Mapping[str, Picture],
    judges: Mapping[str, Tower],
    head: aesthetic.AestheticHead,
    pipeline: Any,
) -> None:
    """Measure and write."""
    usable = usable_preferences(rounds)
    report = {
        "what": "A miniature world made by benchmarks/demo_world; it says nothing about real pictures.",
        "seeds": SEEDS,
        "counts": counts(rounds, usable),
        "parameters": parameters(judges, head, pipeline),
        "judgements_agreeing_with_truth": round(agreement_of_labels(usable, truths), 4),
        "scorer_agreement_on_held_out_prompts": scorer_agreement(held, truths, pictures, judges, head),
        "mean_truth": round(float(np.mean([score for (_, uid), score in truths.items() if uid != CONTROL_UID])), 4),
        "bytes": sum(file.stat().st_size for file in out.rglob("*") if file.is_file() and file != path),
    }
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def counts(rounds: Sequence[Round], usable: Sequence[Preference]) -> dict[str, int]:
    """Rows by what becomes of them, and how many images and prompts there are."""
    shown = {uid for round_ in rounds for uid in round_.image_uids}
    return {
        "rows": len(rounds),
        "unlabelled": sum(round_.label_0 is None for round_ in rounds),
        "control_image": sum(round_.label_0 is not None and CONTROL_UID in round_.image_uids for round_ in rounds),
        "ties": sum(round_.label_0 == 0.5 and CONTROL_UID not in round_.image_uids for round_ in rounds),
        "preferences": len(usable),
        "prompts_of_preferences": len({preference.prompt for preference in usable}),
        "images": len(shown),
        "annotators": len({round_.user_id for round_ in rounds}),
    }


def parameters(judges: Mapping[str, Tower], head: aesthetic.AestheticHead, pipeline: Any) -> dict[str, int]:
    """Parameter counts by model."""
    modules: dict[str, Any] = {f"sd.{name}": getattr(pipeline, name) for name in ("unet", "vae", "text_encoder")}
    modules |= {name: tower.model for name, tower in judges.items()} | {"aesthetic": head}
    return {name: sum(parameter.numel() for parameter in module.parameters()) for name, module in modules.items()}


def agreement_of_labels(preferences: Sequence[Preference], truths: Truths) -> float:
    """Share of preferences that prefer the picture of higher truth."""
    return float(np.mean([(gap(p, truths) > 0) == (p.label_0 == 1.0) for p in preferences]))


def gap(preference: Preference, truths: Truths) -> float:
    """Truth of picture 0 minus truth of picture 1."""
    first, second = (truths[preference.prompt, uid] for uid in preference.image_uids)
    return first - second


def scorer_agreement(
    held: Sequence[Preference],
    truths: Truths,
    pictures: Mapping[str, Picture],
    judges: Mapping[str, Tower],
    head: aesthetic.AestheticHead,
) -> dict[str, dict[str, float]]:
    """How often each scorer picks the side that truth picks, and the side that the annotator picked."""
    prompts = [preference.prompt for preference in held]
    sides = [[pictures[preference.image_uids[side]] for preference in held] for side in (0, 1)]
    gaps = {name: cosines(t, prompts, sides[0]) - cosines(t, prompts, sides[1]) for name, t in judges.items()}
    ratings = [aesthetic.predict(head, aesthetic.embed(judges["clip"], side)) for side in sides]
    gaps["aesthetic"] = ratings[0] - ratings[1]
    by_truth = np.array([gap(preference, truths) > 0 for preference in held])
    by_label = np.array([preference.label_0 == 1.0 for preference in held])
    agreement = {
        name: {
            "with_truth": round(float(((difference > 0) == by_truth).mean()), 4),
            "with_annotators": round(float(((difference > 0) == by_label).mean()), 4),
        }
        for name, difference in gaps.items()
    }
    agreement["truth"] = {"with_truth": 1.0, "with_annotators": round(float((by_truth == by_label).mean()), 4)}
    agreement["pairs"] = {"held_out": len(held)}
    return agreement
