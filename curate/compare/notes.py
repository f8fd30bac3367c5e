"""What a reader of a comparison must know before the numbers: one sentence each."""

from typing import Any

import numpy as np

from curate.compare.statistics.win_rates import Pictures


def notes(pictures: Pictures, report: dict[str, Any]) -> list[str]:
    """What is missing, unequal, in sample, or told apart by nothing."""
    return [
        *_in_sample(report),
        *_left_out(report),
        *_missing(pictures),
        *_unequal(pictures),
        *_not_finite(pictures),
        *_identical(pictures),
        *_apart(pictures, report),
    ]


def _in_sample(report: dict[str, Any]) -> list[str]:
    scorers = {item["scorer"] for item in report["verdicts"]}
    found = []
    for name, chosen_by in report["chosen_by"].items():
        if known := [scorer for scorer in chosen_by if scorer in scorers]:
            found.append(
                f"in-sample scorer: {', '.join(known)} chose the pairs that {name} was trained on, and so "
                f"{'are' if len(known) > 1 else 'is'} no impartial judge of it"
            )
    return found


def _left_out(report: dict[str, Any]) -> list[str]:
    found = []
    for name, reasons in report["faults"].items():
        words = ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in reasons.items())
        found.append(f"{name}: {sum(reasons.values()):,} pictures left out: {words}")
    return found


def _missing(pictures: Pictures) -> list[str]:
    """A model without a picture of some prompts."""
    found = []
    for index, name in enumerate(pictures.models):
        missing = np.flatnonzero(pictures.counts[:, index] == 0)
        if len(missing):
            found.append(
                f"{name} has no scored picture of {len(missing):,} of the {len(pictures.prompts):,} prompts, such as "
                f"'{pictures.prompts[missing[0]]}'; means are over the {int(pictures.shared.sum()):,} "
                f"{'prompts that all share' if (pictures.counts > 0).all(axis=1).any() else 'prompts there are'}"
            )
    return found


def _unequal(pictures: Pictures) -> list[str]:
    """Different numbers of pictures of the prompts that all have."""
    counts = pictures.counts[(pictures.counts > 0).all(axis=1)]
    unequal = int((counts.min(axis=1, initial=2**62) != counts.max(axis=1, initial=0)).sum())
    if not unequal:
        return []
    return [
        f"the models have different numbers of pictures of {unequal:,} prompts; only pictures that make a pair are "
        "compared"
    ]


def _not_finite(pictures: Pictures) -> list[str]:
    found = []
    for scorer, scores in pictures.scores.items():
        for index, name in enumerate(pictures.models):
            if lost := int((~np.isfinite(scores[pictures.model == index])).sum()):
                found.append(f"{lost:,} pictures of {name} have no finite {scorer} score; {scorer} leaves them out")
    return found


def _identical(pictures: Pictures) -> list[str]:
    found = []
    for index, (one, two) in enumerate(pictures.couples):
        here = pictures.couple == index
        changes = [scores[pictures.one[here]] - scores[pictures.two[here]] for scores in pictures.scores.values()]
        if here.any() and all((change == 0).all() for change in changes):
            found.append(
                f"{pictures.models[one]} and {pictures.models[two]} score the same on every picture: their 50 % is "
                f"made of {int(here.sum()):,} ties"
            )
    return found


def _apart(pictures: Pictures, report: dict[str, Any]) -> list[str]:
    if len(pictures.models) > 2 and all(item["strength"] is None for item in report["standings"]):
        return ["no strengths: some of the models share no pair, directly or by way of others"]
    return []
