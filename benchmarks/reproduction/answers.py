"""The questions, answered in sentences made of the results: whichever way they came out."""

from benchmarks.reproduction.results import ArmResult, Results
from benchmarks.reproduction.statistics import Estimate, paired_difference

METRICS = ("qsd", "margin", "winner", "ratio", "vote", "mpcf", "calibrated", "pareto", "consensus", "middle")
UNKNOWN = "Not measured yet."


def verdict(difference: Estimate | None, yes: str, no: str) -> str:
    """`yes` or `no` where the interval leaves out zero, else that it is open; with the numbers."""
    if difference is None:
        return "not measured yet"
    if difference.seeds < 2:
        return f"open: {difference} from one seed"
    word = {1: yes, -1: no, 0: "undecided"}[difference.sign]
    return f"{word}: {difference}, {difference.seeds} seeds"


def beats(results: Results, arm: str, other: str, experiment: str = "main", *, best: bool = False) -> Estimate | None:
    """Paired difference of two arms at their last steps, or each at its best step by validation."""
    first, second = results.get((experiment, arm)), results.get((experiment, other))
    if first is None or second is None:
        return None
    steps = (first.best_step, second.best_step) if best else (first.last_step, second.last_step)
    return first.against(second, *steps)


def claim(results: Results) -> list[str]:
    """Does the top 5.33 % beat all pairs, and chance?"""
    lines = []
    for other, name in (("all", "all pairs"), ("random", "as many pairs at random")):
        lines += [
            f"- Top 5.33 % against {name}, one recipe, equal steps: "
            + verdict(beats(results, "qsd", other), "better", "worse")
            + ".",
            "- The same, each at its best step by validation: "
            + verdict(beats(results, "qsd", other, best=True), "better", "worse")
            + ".",
            "- The same, each at its own best learning rate, β and steps: "
            + verdict(beats(results, "qsd", other, "final"), "better", "worse")
            + ".",
        ]
    every, top = results.get(("long", "all")), results.get(("long", "qsd"))
    if every is not None and top is not None:
        lines += [
            "- After one epoch of each (41 steps of the top, 768 of all): "
            + verdict(top.against(every, 41, 768), "better", "worse")
            + ", at 5 % of the compute.",
            "- After 768 steps of each (18.8 epochs of the top, one of all): "
            + verdict(top.against(every, 768, 768), "better", "worse")
            + ".",
        ]
    fifth = results.get(("long", "top-20"))
    if every is not None and fifth is not None:
        found = verdict(fifth.against(every, 768, 768), "better", "worse")
        lines.append(f"- Top 20 % against all pairs after 768 steps of each (5 epochs of the top): {found}.")
    return lines


def turning_point(results: Results) -> list[str]:
    """Under which annotators the answer turns: the top against all pairs at one recipe and equal steps."""
    lines = []
    for accuracy in sorted({arm.arm.accuracy for (name, _), arm in results.items() if name == "noise"}):
        percent = round(100 * accuracy)
        difference = beats(results, f"qsd-{percent}", f"all-{percent}", "noise")
        lines.append(f"- {percent} % of the judgements right: {verdict(difference, 'better', 'worse')}.")
    return lines or [UNKNOWN]


def best_metric(results: Results) -> list[str]:
    """The metrics in order, each against qsd."""
    arms = {name: arm for name in METRICS if (arm := results.get(("main", name))) is not None}
    if "qsd" not in arms:
        return [UNKNOWN]
    order = sorted(arms, key=lambda name: -arms[name].at(arms[name].last_step).mean)
    lines = [f"At equal steps, best first: {', '.join(order)}. Against `qsd`, paired by seed:", ""]
    for name in order:
        if name != "qsd":
            steps, bests = beats(results, name, "qsd"), beats(results, name, "qsd", best=True)
            lines.append(
                f"- `{name}`: {verdict(steps, 'better', 'worse')};"
                f" each at its best step: {verdict(bests, 'better', 'worse')}."
            )
    return lines


def winner(results: Results) -> str:
    """Whether `winner` does as well as `qsd`, and how often their pairs were judged rightly."""
    steps = verdict(beats(results, "winner", "qsd"), "better", "worse")
    best = verdict(beats(results, "winner", "qsd", best=True), "better", "worse")
    lines = [f"`winner` against `qsd` at equal steps: {steps}; each at its best step: {best}."]
    chosen = [results.get(("main", name)) for name in ("winner", "qsd", "all")]
    if all(arm is not None for arm in chosen):
        shares = [f"{100 * arm.fact('right'):.1f} %" for arm in chosen if arm is not None]
        lines.append(
            f"Of the pairs that `winner` chose the annotators had judged {shares[0]} rightly, of those of `qsd`"
            f" {shares[1]}, of all {shares[2]}."
        )
    return "\n".join(lines)


def over_optimisation(results: Results) -> list[str]:
    """Where more steps stop helping, from the long runs."""
    lines = []
    for (experiment, name), arm in results.items():
        if experiment == "long":
            lines.append(f"- {name}: {_peak(arm)}.")
    return lines or [UNKNOWN]


def _peak(arm: ArmResult) -> str:
    best, last = arm.best_step, arm.last_step
    epochs = best * arm.arm.training.batch_pairs / arm.fact("pairs")
    if best == last:
        return f"still rising at step {last} ({epochs:.2g} epochs), {arm.at(last)}"
    lost = paired_difference(arm.values(last), arm.values(best))
    return (
        f"best at step {best} ({epochs:.2g} epochs) by validation, {arm.at(best)} on the test;"
        f" from there to step {last}: {lost}"
    )
