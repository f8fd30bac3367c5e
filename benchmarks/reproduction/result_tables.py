"""The report's tables, as Markdown and as plain rows."""

from collections.abc import Sequence
from typing import Any

from benchmarks.reproduction.arms import TUNED_BETAS, TUNED_RATES, TUNED_SNAPSHOTS
from benchmarks.reproduction.results import ArmResult, Results
from benchmarks.reproduction.statistics import Estimate

ROW = tuple[str, ...]
HEAD: ROW = ("arm", "pairs", "judged right", "change of truth", "wins", "less all pairs", "best step", "truth there")


def markdown(head: ROW, rows: Sequence[ROW]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    lines = [head, tuple("---" if number == 0 else "---:" for number in range(len(head))), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def experiment_table(results: Results, experiment: str, baseline: tuple[str, str] = ("main", "all")) -> str:
    """One row for each arm of an experiment that has results: at its last step, and at its best by validation."""
    arms = [result for (name, _), result in results.items() if name == experiment]
    return markdown(HEAD, [arm_row(arm, results.get(baseline)) for arm in arms])


def arm_row(arm: ArmResult, baseline: ArmResult | None) -> ROW:
    """The columns of HEAD."""
    last, best = arm.last_step, arm.best_step
    against = None if baseline is None or baseline is arm else arm.against(baseline, last, baseline.last_step)
    return (
        arm.arm.name,
        f"{arm.fact('pairs'):,.0f}",
        f"{100 * arm.fact('right'):.1f} %",
        str(arm.at(last)),
        f"{100 * arm.at(last, 'test_wins').mean:.0f} %",
        "" if against is None else marked(against),
        str(best),
        str(arm.at(best)),
    )


def marked(difference: Estimate) -> str:
    """The difference, bold where its interval leaves out zero."""
    return f"**{difference}**" if difference.sign else str(difference)


def seeds_line(results: Results, experiment: str) -> str:
    """How many seeds there are, so that nobody takes one for five."""
    counts = sorted({len(arm.by_seed) for (name, _), arm in results.items() if name == experiment})
    wanted = max(len(arm.arm.seeds) for (name, _), arm in results.items() if name == experiment)
    if counts == [wanted]:
        return f"{wanted} seeds each."
    return f"{counts[0]} to {counts[-1]} of {wanted} seeds each: the work is not finished."


def noise_table(results: Results) -> str:
    """One row for each accuracy of the annotators."""
    rows = []
    for accuracy in sorted({arm.arm.accuracy for (name, _), arm in results.items() if name == "noise"}):
        three = [results.get(("noise", f"{name}-{round(100 * accuracy)}")) for name in ("all", "random", "qsd")]
        rows.append(_noise_row(accuracy, three))
    head = (
        "judged right",
        "all",
        "random 5.33 %",
        "top 5.33 %",
        "top less all",
        "right among the top",
        "at best steps, top less all",
    )
    return markdown(head, rows)


def _noise_row(accuracy: float, three: Sequence[ArmResult | None]) -> ROW:
    every, _, top = three
    shown = ["" if arm is None else str(arm.at(arm.last_step)) for arm in three]
    if every is None or top is None:
        return (f"{100 * accuracy:.0f} %", *shown, "", "", "")
    difference = top.against(every, top.last_step, every.last_step)
    best = top.against(every, top.best_step, every.best_step)
    return (
        f"{100 * accuracy:.0f} %",
        *shown,
        "" if difference is None else marked(difference),
        f"{100 * top.fact('right'):.1f} %",
        "" if best is None else marked(best),
    )


def tuning_table(results: Results, best: dict[str, tuple[float, float, int, float]]) -> str:
    """Each tuned arm's own recipe and what came of it on the test prompts under the reported seeds."""
    rows = []
    every = results.get(("final", "all"))
    for name, (rate, beta, steps, validation) in best.items():
        arm = results.get(("final", name))
        difference = (
            None if arm is None or every is None or arm is every else arm.against(every, steps, every.last_step)
        )
        rows.append(
            (
                name,
                at_edge(rate, TUNED_RATES),
                at_edge(beta, TUNED_BETAS),
                at_edge(steps, TUNED_SNAPSHOTS),
                f"{validation:+.2f}",
                "" if arm is None else str(arm.at(steps)),
                "" if arm is None else f"{100 * arm.at(steps, 'test_wins').mean:.0f} %",
                "" if difference is None else marked(difference),
            )
        )
    head = ("arm", "learning rate", "β", "steps", "validation", "change of truth, test", "wins", "less all pairs")
    return markdown(head, rows)


def at_edge(value: float, grid: Sequence[float]) -> str:
    """The value, with a dagger where the grid ends: what lies beyond was not tried."""
    return f"{value:g}" + (" †" if value in (min(grid), max(grid)) else "")


def long_table(results: Results) -> str:
    """Truth by step, one column for each arm of the long runs."""
    arms = [arm for (name, _), arm in results.items() if name == "long"]
    if not arms:
        return ""
    rows = []
    for step in arms[0].arm.snapshots:
        epochs = [f"{arm.at(step)!s} [{step * arm.arm.training.batch_pairs / arm.fact('pairs'):.2g}]" for arm in arms]
        rows.append((str(step), *epochs))
    return markdown(("step", *(f"{arm.arm.name} [epochs]" for arm in arms)), rows)


def plain_rows(results: Results) -> list[dict[str, Any]]:
    """One row for each arm, seed and snapshot, for the CSV."""
    return [
        {"experiment": experiment, "arm": name, "seed": seed, **point}
        for (experiment, name), arm in results.items()
        for seed, result in sorted(arm.by_seed.items())
        for point in result["curve"]
    ]
