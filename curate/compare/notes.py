"""What a reader of a comparison must know before the numbers: one sentence each."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from curate.compare.statistics.pictures import Pictures


def notes(pictures: Pictures, report: dict[str, Any]) -> list[str]:
    """What is missing, unequal, in sample, or told apart by nothing."""
    return [
        *_in_sample(report),
        *_left_out(report),
        *_missing(pictures),
        *_unequal(pictures),
        *_not_finite(pictures),
        *_identical(pictures),
        *_alike(report),
        *_noise(report),
        *_apart(pictures, report),
    ]


def _in_sample(report: dict[str, Any]) -> Iterator[str]:
    scorers = {item["scorer"] for item in report["verdicts"]}
    for name, chosen_by in report["chosen_by"].items():
        if known := [scorer for scorer in chosen_by if scorer in scorers]:
            yield (
                f"in-sample scorer: {', '.join(known)} chose the pairs that {name} was trained on, and so "
                f"{'are' if len(known) > 1 else 'is'} no impartial judge of it"
            )


def _left_out(report: dict[str, Any]) -> Iterator[str]:
    for name, reasons in report["faults"].items():
        words = ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in reasons.items())
        yield f"{name}: {sum(reasons.values()):,} pictures left out: {words}"


def _missing(pictures: Pictures) -> Iterator[str]:
    """A model without a picture of some prompts."""
    for index, name in enumerate(pictures.models):
        missing = np.flatnonzero(pictures.counts[:, index] == 0)
        if len(missing):
            yield (
                f"{name} has no scored picture of {len(missing):,} of the {len(pictures.prompts):,} prompts, such as "
                f"'{pictures.prompts[missing[0]]}'; means are over the {int(pictures.shared.sum()):,} "
                f"{'prompts that all share' if (pictures.counts > 0).all(axis=1).any() else 'prompts there are'}"
            )


def _unequal(pictures: Pictures) -> Iterator[str]:
    """Different numbers of pictures of the prompts that all have."""
    counts = pictures.counts[(pictures.counts > 0).all(axis=1)]
    unequal = int((counts.min(axis=1, initial=2**62) != counts.max(axis=1, initial=0)).sum())
    if unequal:
        yield (
            f"the models have different numbers of pictures of {unequal:,} prompts; only pictures that make a pair are "
            "compared"
        )


def _not_finite(pictures: Pictures) -> Iterator[str]:
    for scorer, scores in pictures.scores.items():
        for index, name in enumerate(pictures.models):
            if lost := int((~np.isfinite(scores[pictures.model == index])).sum()):
                yield f"{lost:,} pictures of {name} have no finite {scorer} score; {scorer} leaves them out"


def _identical(pictures: Pictures) -> Iterator[str]:
    for index, (one, two) in enumerate(pictures.couples):
        here = pictures.couple == index
        changes = [scores[pictures.one[here]] - scores[pictures.two[here]] for scores in pictures.scores.values()]
        if here.any() and all((change == 0).all() for change in changes):
            yield (
                f"{pictures.models[one]} and {pictures.models[two]} score the same on every picture: their 50 % is "
                f"made of {int(here.sum()):,} ties"
            )


def _alike(report: dict[str, Any]) -> Iterator[str]:
    """Most pairs are ties, by every scorer, and not because the scores are equal."""
    for model in report["models"][:-1]:
        rows = [v for v in report["verdicts"] if (v["model"], v["against"]) == (model, report["against"])]
        shares = [v["ties"] / v["pairs"] for v in rows]
        if rows and min(shares) > 0.5 and any(v["ties"] > v["raw_ties"] for v in rows):
            yield (
                f"{model} and {report['against']} hardly differ: by every scorer {100 * min(shares):.0f} % of their "
                "pairs or more are ties"
            )


def _noise(report: dict[str, Any]) -> Iterator[str]:
    if any(item["between"] == "prompts" for item in report["noise"]):
        yield (
            "too few prompts have two pictures of one model, so the tie band and the effect are measured by how scores "
            "differ between prompts, which is more; `train sample --images-per-prompt 2` draws two"
        )


def _apart(pictures: Pictures, report: dict[str, Any]) -> Iterator[str]:
    if len(pictures.models) > 2 and all(item["strength"] is None for item in report["standings"]):
        yield "no strengths: some of the models share no pair, directly or by way of others"
