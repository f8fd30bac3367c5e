"""Who wins, in one sentence: by the scorers that had no say in what the models were trained on, where there are any."""

from typing import Any


def headline(report: dict[str, Any]) -> str:
    """Each model against the reference. A win or a loss: its whole interval lies on one side of 50 %."""
    judges = report["impartial"] or report["scorers"]
    who = f"by {_listed(judges)}" + ("" if report["impartial"] else ", no impartial judge")
    rows = [v for v in report["verdicts"] if v["against"] == report["against"] and v["scorer"] in judges]
    models = dict.fromkeys(v["model"] for v in rows)
    said = [f"{model} {_outcome([v for v in rows if v['model'] == model])}" for model in models]
    return f"Against {report['against']}, {who}: {'; '.join(said) or 'no pair was scored'}."


def _outcome(rows: list[dict[str, Any]]) -> str:
    wins = sum(v["win_rate_low"] > 0.5 for v in rows)
    losses = sum(v["win_rate_high"] < 0.5 for v in rows)
    if not wins and not losses:
        word = "is not told apart"
    elif wins and losses:
        word = f"wins by {wins} and loses by {losses} of them"
    else:
        count = wins or losses
        word = ("wins" if wins else "loses") + ("" if count == len(rows) else f" by {count} of them")
    rates = _range([100 * v["win_rate"] for v in rows], ".1f", " %")
    effects = [v["effect"] for v in rows if v["effect"] is not None]
    return f"{word} (win rate {rates}{', effect ' + _range(effects, '+.2f', '') if effects else ''})"


def _range(values: list[float], form: str, unit: str) -> str:
    ends = dict.fromkeys(f"{value:{form}}" for value in (min(values), max(values)))
    return " to ".join(ends) + unit


def _listed(names: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
