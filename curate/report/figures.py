"""The figures of a report: what each is made of, by SQL, and what it says, in words."""

import math
from collections.abc import Iterator
from typing import Any

import duckdb
import numpy as np

from curate.database.connection import Rows, query_rows
from curate.database.queries import query_text
from curate.rank.metrics.calibration import Calibration
from curate.report import charts
from curate.report.charts import Figure
from curate.report.gallery import Ranking
from curate.report.prompt_map import project

HISTOGRAM_BINS = 40
AGREEMENT_BINS = 20
MAP_PROMPTS = 1000
Z_95 = 1.959964
INTERESTED = " † had a say in which pairs are selected, and so is no impartial judge of them."


def figures(ranking: Ranking, steps: Rows) -> list[Figure]:
    """Every figure of a ranking, in the order of the page. steps: those of `count_steps`."""
    connection, scorers = ranking.connection, ranking.scorers
    histograms = query_rows(connection, query_text("report/histograms", scorer=scorers), bins=HISTOGRAM_BINS)
    means = {row["scorer"]: row for row in query_rows(connection, query_text("report/scorers", scorer=scorers))}
    return [
        counts_figure(steps),
        quality_figure(histograms, ranking.settings),
        *distribution_figures(histograms, means, ranking),
        agreement_figure(ranking),
        calibration_figure(ranking.calibration, ranking.preferred_by),
        *correlation_figures(connection, scorers),
        *map_figures(connection),
    ]


def counts_figure(steps: Rows) -> Figure:
    """One bar a step. steps: those of `count_steps`."""
    bars: Rows = []
    for step in steps:
        start = 0
        for part, pairs in step["parts"].items():
            kept = "kept" if part == step["kept"] else "left out"
            wide = pairs > 0.12 * steps[0]["total"]
            row = {"step": step["name"], "part": part, "pairs": pairs, "kept": kept, "start": start}
            bars.append(row | {"end": start + pairs, "label": f"{pairs:,}" if wide else ""})
            start += pairs
    sums = "; ".join(" ".join(step["sum"].split()) for step in steps)
    table = [{"step": row["step"], "part": row["part"], "pairs": row["pairs"]} for row in bars]
    return Figure(
        "counts",
        "From the source to the selection",
        "Each bar is one step; its blue part is what the next step begins with. The sums add up exactly.",
        sums,
        charts.counts_chart(bars),
        table,
        height=46 * len(steps),
        labelled=True,
    )


def quality_figure(histograms: Rows, settings: dict[str, Any]) -> Figure:
    """Quality over all pairs and the selected ones, with the cut."""
    rows = [row for row in histograms if row["quantity"] == "quality"]
    cut = settings["least_selected_quality"]
    summary = f"Quality runs from {rows[0]['low']:.4g} to {rows[-1]['high']:.4g}; the last selected pair has {cut:.4g}."
    caption = (
        "Share of pairs in each of 40 equal bins, each group by itself. Dashed: the quality of the last selected pair."
    )
    return _histogram(("quality", "Quality", caption, summary), "quality", cut, rows, _ranked_and_selected(rows))


def distribution_figures(histograms: Rows, means: dict[str, dict[str, Any]], ranking: Ranking) -> Iterator[Figure]:
    """Two figures a scorer: its scores, its margins."""
    for scorer in dict.fromkeys(row["scorer"] for row in histograms if row["scorer"]):
        own = [row for row in histograms if row["scorer"] == scorer]
        note = INTERESTED if scorer in ranking.chosen_by else ""
        yield _score_figure(scorer, [row for row in own if row["quantity"] == "score"], means[scorer], note)
        margins = [row for row in own if row["quantity"] == "margin"]
        yield _margin_figure(scorer, margins, means[scorer], note, ranking.preferred_by)


def _score_figure(scorer: str, rows: Rows, means: dict[str, Any], note: str) -> Figure:
    preferred = [row for row in rows if row["side"] == "preferred"]
    rejected = [row for row in rows if row["side"] == "rejected"]
    groups = {
        "all pictures": [one["pairs"] + two["pairs"] for one, two in zip(preferred, rejected, strict=True)],
        "selected, preferred": [row["selected_pairs"] for row in preferred],
        "selected, rejected": [row["selected_pairs"] for row in rejected],
    }
    over_all, over_selected = (
        f"{_said(means[f'{over}mean_preferred'], '.4g')} and {_said(means[f'{over}mean_rejected'], '.4g')}"
        for over in ("", "selected_")
    )
    summary = (
        f"Mean {scorer} of preferred and rejected pictures: {over_all} over all pairs, {over_selected} over "
        "selected ones."
    )
    caption = "All pictures of ranked pairs (area) against both sides of the selected pairs (lines)."
    words = (f"score-{scorer}", f"{scorer}{' †' if note else ''}: score", caption + note, summary)
    return _histogram(words, f"{scorer} score", None, preferred, groups)


def _margin_figure(scorer: str, rows: Rows, means: dict[str, Any], note: str, who: str) -> Figure:
    summary = (
        f"{scorer} agrees with {who} in {_said(means['agreement'], '.1%')} of all ranked pairs and in "
        f"{_said(means['selected_agreement'], '.1%')} of the selected ones."
    )
    caption = f"Preferred minus rejected. Right of 0 the scorer agrees with {who}, left of it it disagrees."
    words = (f"margin-{scorer}", f"{scorer}{' †' if note else ''}: margin", caption + note, summary)
    return _histogram(words, f"{scorer} margin", 0.0, rows, _ranked_and_selected(rows))


def _said(value: float | None, form: str) -> str:
    """A number in a sentence; a scorer may have no score at all."""
    return "unknown" if value is None else format(value, form)


def _histogram(
    words: tuple[str, str, str, str], axis: str, rule: float | None, bins: Rows, groups: dict[str, list[int]]
) -> Figure:
    """words: key, title, caption, summary. groups: name -> its count in each of `bins`; drawn as shares of a group."""
    edges = [(row["low"], row["high"]) for row in bins]
    rows = [
        {"low": low, "high": high, "pairs": pairs, "share": pairs / max(sum(counts), 1), "group": group}
        | {"value": (low + high) / 2}
        for group, counts in groups.items()
        for (low, high), pairs in zip(edges, counts, strict=True)
    ]
    table = [
        {"from": low, "to": high} | dict(zip(groups, counts, strict=True))
        for (low, high), *counts in zip(edges, *groups.values(), strict=True)
    ]
    return Figure(*words, charts.histogram_chart(rows, axis, list(groups), rule), table)


def _ranked_and_selected(rows: Rows) -> dict[str, list[int]]:
    return {"all ranked": [row["pairs"] for row in rows], "selected": [row["selected_pairs"] for row in rows]}


def agreement_figure(ranking: Ranking) -> Figure:
    """Agreement of each scorer with who prefers, along the ranking."""
    settings, scorers, who = ranking.settings, ranking.scorers, ranking.preferred_by
    rows = query_rows(ranking.connection, query_text("report/agreement", scorer=scorers), bins=AGREEMENT_BINS)
    for row in rows:
        row["percentile"] = (row["low"] + row["high"]) / 2
    ends = [
        f"{scorer} from {_said(own[0]['agreement'], '.0%')} to {_said(own[-1]['agreement'], '.0%')}"
        for scorer in scorers
        if (own := [row for row in rows if row["scorer"] == scorer])
    ]
    cut = 1 - settings["selected_pairs"] / settings["base_pairs"]
    marked = {name: f"{name} †" if name in ranking.chosen_by else name for name in scorers}
    names = ("scorer", "low", "high", "pairs", "selected_pairs", "agreement")
    return Figure(
        "agreement",
        f"Agreement with {'humans' if who == 'the human' else who} along the ranking",
        f"Share of pairs in which the scorer prefers what {who} preferred (a tie counts half), in twentieths of the "
        f"ranking. At 50 % (dashed) a scorer says nothing about {who}'s choice. "
        "The upright line is where as many pairs lie to the right as are selected."
        + (INTERESTED if ranking.chosen_by else ""),
        f"From the worst to the best twentieth: {'; '.join(ends)}.",
        charts.agreement_chart([row | {"scorer": marked[row["scorer"]]} for row in rows], list(marked.values()), cut),
        [{name: row[name] for name in names} for row in rows],
        height=300,
    )


def calibration_figure(calibration: Calibration, who: str) -> Figure:
    """How often the likelier side by all scorers together is the preferred one, against the predicted probability."""
    rows = [
        {"predicted": item.predicted, "observed": item.observed, "pairs": item.pairs, "least": low, "most": high}
        for item in calibration.bins
        for low, high in [wilson_interval(item.observed, item.pairs)]
    ]
    return Figure(
        "calibration",
        "Calibration",
        f"All scorers' margins together predict {who}'s choice (a Bradley-Terry model, judged on prompts it has not "
        "seen). Points on the dashed diagonal: the prediction is right as often as it says. Bars are 95 % intervals.",
        _calibration_summary(calibration),
        charts.calibration_chart(rows),
        rows or [{"scorer": name, "weight": weight} for name, weight in calibration.weights.items()],
        height=300,
    )


def _calibration_summary(calibration: Calibration) -> str:
    weights = ", ".join(f"{name} {weight:.3g}" for name, weight in calibration.weights.items())
    if calibration.pairs == 0:
        return "No pair has a score of every scorer, so nothing could be fitted."
    if calibration.held_out_accuracy is None:
        return f"There are too few prompts to hold some out. Log-odds per unit of margin: {weights}."
    return (
        f"On held-out prompts it agrees with {calibration.held_out_accuracy:.1%} of {calibration.pairs:,} judgements, "
        f"log loss {calibration.held_out_log_loss:.3f} (chance: 0.693). Log-odds per unit of margin: {weights}."
    )


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """95 % interval of a share of `count` (Wilson, JASA 22, 1927)."""
    spread = Z_95 * math.sqrt(share * (1 - share) / count + Z_95**2 / (4 * count**2))
    middle, scale = share + Z_95**2 / (2 * count), 1 + Z_95**2 / count
    return (middle - spread) / scale, (middle + spread) / scale


def correlation_figures(connection: duckdb.DuckDBPyConnection, scorers: list[str]) -> Iterator[Figure]:
    """How alike the scorers are: over pictures by score, over pairs by margin."""
    found = query_rows(connection, query_text("report/correlations", scorer=scorers))
    for quantity, over in (("score", "pictures"), ("margin", "pairs")):
        rows = [{name: row[name] for name in ("scorer", "other", "correlation")} for row in found
                if row["quantity"] == quantity]  # fmt: skip
        apart = [row for row in rows if row["scorer"] < row["other"] and row["correlation"] is not None]
        parts = [f"{row['scorer']} and {row['other']} {row['correlation']:.2f}" for row in apart]
        yield Figure(
            f"correlation-{quantity}",
            f"Correlation of {quantity}s",
            f"Pearson's correlation over all {over} of ranked pairs. Near 1, two scorers say the same; near 0, "
            "each brings news.",
            f"Correlation of {quantity}s: {'; '.join(parts)}." if parts else "There is one scorer.",
            charts.correlation_chart(rows, scorers),
            rows,
            height=56 * len(scorers) + 30,
            labelled=True,
        )


def map_figures(connection: duckdb.DuckDBPyConnection) -> Iterator[Figure]:
    """The prompts in the plane, when the run has embeddings of them."""
    columns = connection.sql("from prompts limit 0").columns
    towers = [name.removesuffix("_embedding") for name in columns if name.endswith("_embedding")]
    if not towers:
        return
    rows = query_rows(connection, query_text("report/prompts", tower=towers[:1]), most=MAP_PROMPTS)
    if not rows:
        return
    points, method = project(np.array([row.pop("embedding") for row in rows], np.float32))
    for row, (x, y) in zip(rows, points.tolist(), strict=True):
        row |= {"x": round(x, 3), "y": round(y, 3), "kind": "chosen" if row["selected_pairs"] else "other"}
    yield _map_figure(rows, towers[0], method)


def _map_figure(rows: Rows, tower: str, method: str) -> Figure:
    shown, total = {}, {}
    for kind in ("chosen", "other"):
        own = [row for row in rows if row["kind"] == kind]
        shown[kind], total[kind] = len(own), own[0]["of_kind"] if own else 0
    names = ("x", "y", "prompt", "kind", "pairs", "selected_pairs")
    by_selected = sorted(rows, key=lambda row: -row["selected_pairs"])
    return Figure(
        "prompts",
        "Map of the prompts",
        f"Each point is a prompt; near points are alike to {tower}'s text tower ({method}). Blue: at least one of its "
        "pairs is selected. Point at one to read it; the table lists them all.",
        f"Shown are {shown['chosen']:,} of {total['chosen']:,} prompts with a selected pair and "
        f"{shown['other']:,} of {total['other']:,} others, sampled by a hash of their id.",
        charts.map_chart([{name: row[name] for name in names} for row in rows]),
        [{name: row[name] for name in ("prompt", "selected_pairs", "pairs")} for row in by_selected],
        height=460,
    )
