"""The charts of a report, as Vega-Lite: one list of figures serves the page and the PNG.

A chart names its colours by role ("@chosen"); `themed` puts a palette's colours in their place, and the page's
script does the same, so that light and dark are the same charts.
"""

import json
from dataclasses import dataclass, field
from typing import Any

import altair as alt

SERIES = [f"@s{index}" for index in range(6)]
FONT = "system-ui, 'Segoe UI', 'Liberation Sans', 'DejaVu Sans', sans-serif"

CONFIG: dict[str, Any] = {
    "background": "transparent",
    "font": FONT,
    "view": {"stroke": None},
    "axis": {
        "labelColor": "@soft",
        "titleColor": "@soft",
        "titleFontWeight": "normal",
        "labelFontSize": 11,
        "titleFontSize": 12,
        "grid": True,
        "gridColor": "@line",
        "gridOpacity": 0.7,
        "domain": False,
        "tickColor": "@line",
        "labelOverlap": True,
    },
    "axisX": {"grid": False, "domain": True, "domainColor": "@line", "tickCount": 6},
    "axisY": {"tickCount": 5},
    "legend": {
        "labelColor": "@ink",
        "orient": "top",
        "title": None,
        "labelFontSize": 12,
        "symbolStrokeWidth": 2.5,
        "symbolOpacity": 1,
        "offset": 8,
        "columns": 3,
    },
    "title": {
        "color": "@ink",
        "subtitleColor": "@soft",
        "anchor": "start",
        "fontSize": 15,
        "fontWeight": 600,
        "subtitleFontSize": 11,
        "subtitlePadding": 5,
        "offset": 12,
    },
}


@dataclass(frozen=True)
class Figure:
    """One chart with its words: what it shows and how it is read, what it says, and its numbers as a table."""

    key: str
    title: str
    caption: str
    summary: str
    chart: alt.Chart | alt.LayerChart
    rows: list[dict[str, Any]] = field(default_factory=list)
    height: int = 220
    labelled: bool = False  # the chart itself carries its numbers: the summary is for those who cannot see it

    def spec(self) -> dict[str, Any]:
        """Vega-Lite for the page: as wide as its place, colours still by role."""
        chart = self.chart.properties(width="container", height=self.height, description=self.summary)
        # Three of the longest names take 380 px side by side, two 280; what goes beyond the chart's edge is cut off.
        legend = {**CONFIG["legend"], "columns": {"expr": "width < 280 ? 1 : width < 380 ? 2 : 3"}}
        return {**chart.to_dict(), "config": {**CONFIG, "legend": legend}}


def themed(spec: dict[str, Any], palette: dict[str, str]) -> dict[str, Any]:
    """The spec with every "@role" replaced by the palette's colour."""
    text = json.dumps(spec)
    for role, colour in palette.items():
        text = text.replace(f'"@{role}"', json.dumps(colour))
    return dict(json.loads(text))


def chart_of(rows: list[dict[str, Any]]) -> alt.Chart:
    """A chart over inline rows."""
    return alt.Chart(alt.Data(values=rows))


def counts_chart(rows: list[dict[str, Any]]) -> alt.LayerChart:
    """One bar a step, from the source to the selection; rows: step, part, pairs, kept, start, end, label."""
    order = list(dict.fromkeys(row["step"] for row in rows))
    y = alt.Y("step:N").sort(order).title(None).axis(labelFontSize=12, labelColor="@ink", ticks=False, grid=False)
    base = chart_of(rows).encode(y=y, tooltip=["step:N", "part:N", alt.Tooltip("pairs:Q", format=",")])
    bars = base.mark_bar(height={"band": 0.62}, stroke="@paper", strokeWidth=1.5).encode(
        x=alt.X("start:Q").title("pairs").axis(format=".2~s"),
        x2="end:Q",
        color=alt.Color("kept:N").scale(domain=["kept", "left out"], range=["@chosen", "@all"]),
    )
    text = base.mark_text(align="left", dx=6, fontSize=11).encode(
        x="start:Q", text="label:N", color=alt.condition("datum.kept == 'kept'", alt.value("@paper"), alt.value("@ink"))
    )
    return bars + text


def histogram_chart(rows: list[dict[str, Any]], title: str, groups: list[str], rule: float | None) -> alt.LayerChart:
    """All pairs as an area, selected ones as lines; rows: value, low, high, group, share, pairs.

    rule: where a vertical line stands, such as the cut or a margin of 0.
    """
    colours = ["@all", "@chosen", "@rejected"][: len(groups)]
    base = chart_of(rows).encode(
        x=alt.X("value:Q").title(title).scale(zero=False, nice=False),
        y=alt.Y("share:Q").title("share of pairs").axis(format="~%").stack(None),
        color=alt.Color("group:N").scale(domain=groups, range=colours),
        tooltip=[
            "group:N",
            alt.Tooltip("low:Q", format=".4~g", title="from"),
            alt.Tooltip("high:Q", format=".4~g", title="to"),
            alt.Tooltip("share:Q", format=".2%"),
            alt.Tooltip("pairs:Q", format=","),
        ],
    )
    first, others = (base.transform_filter(f"datum.group {sign} {json.dumps(groups[0])}") for sign in ("==", "!="))
    layers = first.mark_area(interpolate="step", opacity=0.7) + others.mark_line(interpolate="step", strokeWidth=2)
    return layers if rule is None else layers + rule_chart("x", rule)


def rule_chart(channel: str, at: float) -> alt.Chart:
    """A thin dashed line across the plot."""
    return chart_of([{"at": at}]).mark_rule(strokeDash=[4, 3], color="@soft").encode(**{channel: "at:Q"})


def agreement_chart(rows: list[dict[str, Any]], scorers: list[str], cut: float | None) -> alt.LayerChart:
    """Agreement along the ranking, one line a scorer; rows: scorer, percentile, low, high, agreement."""
    lines = (
        chart_of(rows)
        .mark_line(strokeWidth=2, point={"size": 36, "filled": True, "opacity": 1})
        .encode(
            x=alt.X("percentile:Q").title("percentile of quality (1 = best)").scale(domain=[0, 1], nice=False),
            y=alt.Y("agreement:Q").title("agreement").axis(format="~%").scale(zero=False, padding=6),
            color=alt.Color("scorer:N").scale(domain=scorers, range=SERIES[: len(scorers)]).sort(scorers),
            shape=alt.Shape("scorer:N").scale(domain=scorers).sort(scorers),
            tooltip=[
                "scorer:N",
                alt.Tooltip("low:Q", title="from percentile"),
                alt.Tooltip("high:Q", title="to percentile"),
                alt.Tooltip("agreement:Q", format=".1%"),
                alt.Tooltip("pairs:Q", format=","),
            ],
        )
    )
    layers = rule_chart("y", 0.5) + lines
    return layers if cut is None else layers + rule_chart("x", cut)


def calibration_chart(rows: list[dict[str, Any]]) -> alt.LayerChart:
    """Predicted against observed agreement; rows: predicted, observed, pairs, least, most (95 % interval)."""
    ends = [{"predicted": 0.5, "observed": 0.5}, {"predicted": 1.0, "observed": 1.0}]
    x = alt.X("predicted:Q").title("predicted probability").axis(format="~%").scale(domain=[0.5, 1], nice=False)
    title = "observed share"
    diagonal = chart_of(ends).mark_line(strokeDash=[4, 3], color="@soft", strokeWidth=1).encode(x=x, y="observed:Q")
    base = chart_of(rows).encode(x=x)
    scale = alt.Scale(zero=False, padding=6)
    bars = base.mark_rule(color="@chosen", strokeWidth=1.5).encode(
        y=alt.Y("least:Q", title=title, scale=scale).axis(format="~%"), y2="most:Q"
    )
    dots = base.mark_circle(color="@chosen", size=70, opacity=1).encode(
        y=alt.Y("observed:Q", title=title),
        tooltip=[
            alt.Tooltip("predicted:Q", format=".1%"),
            alt.Tooltip("observed:Q", format=".1%"),
            alt.Tooltip("pairs:Q", format=","),
        ],
    )
    return diagonal + bars + dots


def correlation_chart(rows: list[dict[str, Any]], scorers: list[str]) -> alt.LayerChart:
    """A square of correlations with its numbers; rows: scorer, other, correlation."""
    known = [row for row in rows if row["correlation"] is not None]
    base = chart_of(known).encode(
        x=alt.X("other:N").sort(scorers).title(None).axis(labelAngle=0, domain=False, ticks=False, labelOverlap=False),
        y=alt.Y("scorer:N").sort(scorers).title(None).axis(ticks=False, grid=False),
        tooltip=["scorer:N", "other:N", alt.Tooltip("correlation:Q", format=".3f")],
    )
    cells = base.mark_rect(stroke="@paper", strokeWidth=2).encode(
        color=alt.Color("correlation:Q")
        .scale(domain=[-1, 0, 1], range=["@rejected", "@line", "@chosen"], interpolate="lab")
        .legend(None)
    )
    strong = alt.condition("abs(datum.correlation) > 0.6", alt.value("@paper"), alt.value("@ink"))
    return cells + base.mark_text(fontSize=12).encode(text=alt.Text("correlation:Q", format=".2f"), color=strong)


def map_chart(rows: list[dict[str, Any]]) -> alt.LayerChart:
    """Prompts in the plane, chosen ones on top; rows: x, y, prompt, kind, pairs, selected_pairs."""
    hidden = alt.Axis(labels=False, ticks=False, domain=False, grid=False, title=None)
    base = chart_of(rows).encode(
        x=alt.X("x:Q", axis=hidden).scale(zero=False, padding=8),
        y=alt.Y("y:Q", axis=hidden).scale(zero=False, padding=8),
        color=alt.Color("kind:N").scale(domain=["chosen", "other"], range=["@chosen", "@all"]),
        shape=alt.Shape("kind:N").scale(domain=["chosen", "other"], range=["circle", "diamond"]),
        tooltip=[
            "prompt:N",
            alt.Tooltip("selected_pairs:Q", format=",", title="selected pairs"),
            alt.Tooltip("pairs:Q", format=",", title="ranked pairs"),
        ],
    )
    others = base.transform_filter("datum.kind == 'other'").mark_point(size=22, filled=True, opacity=0.7)
    chosen = base.transform_filter("datum.kind == 'chosen'").mark_point(size=42, filled=True, opacity=0.9)
    return others + chosen
