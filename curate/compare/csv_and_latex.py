"""A comparison as CSV for a spreadsheet and as LaTeX for a paper."""

import csv
import io
from typing import Any

_SPECIAL = str.maketrans(
    {mark: f"\\{mark}" for mark in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
)


def csv_text(report: dict[str, Any]) -> str:
    """One row for every scorer and two models, over all prompts (category empty) and by category."""
    rows = [*report["verdicts"], *report["categories"]]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def latex_text(report: dict[str, Any]) -> str:
    """A booktabs table: a row a model; each scorer's mean, and its win rate against the reference with its interval."""
    scorers = report["scorers"]
    standings = {(item["scorer"], item["model"]): item for item in report["standings"]}
    against = {(v["scorer"], v["model"]): v for v in report["verdicts"] if v["against"] == report["against"]}
    head = " & ".join(["", *(rf"\multicolumn{{2}}{{c}}{{{_plain(scorer)}}}" for scorer in scorers)])
    below = " & ".join(["model", *(r"mean & win rate (\%)" for _ in scorers)])
    lines = [
        rf"% {_plain(report['confidence'])}; win rates against {_plain(report['against'])}.",
        rf"% A tie is half a win: a difference of at most {report['tie_band']:g} of what another seed changes.",
        r"% needs \usepackage{booktabs}; a dagger marks the win rate of a scorer that chose the training pairs.",
        rf"\begin{{tabular}}{{l{'rr' * len(scorers)}}}",
        r"\toprule",
        head + r" \\",
        below + r" \\",
        r"\midrule",
    ]
    for model in report["models"]:
        cells = [_plain(model)]
        for scorer in scorers:
            cells += [f"{standings[scorer, model]['mean']:.4g}", _rate(against.get((scorer, model)))]
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _rate(verdict: dict[str, Any] | None) -> str:
    if verdict is None:
        return "--"
    low, rate, high = (100 * verdict[key] for key in ("win_rate_low", "win_rate", "win_rate_high"))
    mark = r"$^\dagger$" if verdict["in_sample"] else ""
    return f"{rate:.1f}{mark} [{low:.1f}, {high:.1f}]"


def _plain(text: str) -> str:
    return text.translate(_SPECIAL)
