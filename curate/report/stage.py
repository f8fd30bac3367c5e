"""`curate report`: one HTML page about a ranking, and its charts as one picture."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import altair as alt

from curate.errors import UsageError
from curate.pages.palettes import PALETTES
from curate.pages.template import MOST_BYTES
from curate.rank.prefer import HUMAN
from curate.rank.stdout import coverage_words
from curate.report.charts import CONFIG, Figure, themed
from curate.report.figures import figures
from curate.report.gallery import Ranking, count_steps, metric_purpose, open_ranking
from curate.report.page import Gallery, make_gallery, report_page
from curate.storage.run import Run
from curate.storage.tables import atomic_path, write_text
from curate.storage.threads import batched

PNG_COLUMNS = 3
PNG_COLUMN_PX = 430
PNG_PLOT_PX = 340  # a column less its axis
PNG_ORDER = ("counts", "quality", "agreement", "score-", "margin-", "calibration", "correlation", "prompts")
PNG_SCALE = 2


@dataclass(frozen=True)
class ReportOptions:
    """name: of the ranking. page: None for RUN/report.html. png: the charts as one picture, too. gallery: its pairs."""

    name: str = "default"
    page: Path | None = None
    png: bool = False
    gallery: int = 300


def report(run: Run, options: ReportOptions | None = None) -> dict[str, Any]:
    """Write the page, and its charts as PNG when asked to; return what was written and counted.

    Raises: UsageError, RunError, WriteError.

    >>> from curate.storage import open_run
    >>> written = report(open_run("run"), ReportOptions(gallery=6))
    >>> written["page"], written["gallery_pairs"]
    ('run/report.html', 6)
    """
    options = options or ReportOptions()
    name, png = options.name, options.png
    path = options.page or default_page(run, name)
    if png and path.suffix == ".png":
        raise UsageError(f"--page {path}: the picture of --png would be written there; name the page .html")
    ranking = open_ranking(run, name)
    steps = count_steps(run.summary(), ranking.settings)
    drawn = figures(ranking, steps)
    values = page_values(run, ranking, steps)
    bare, _ = report_page(drawn, Gallery({}), **values)
    gallery = make_gallery(run, ranking, options.gallery, MOST_BYTES - len(bare.encode()))
    text, _ = report_page(drawn, gallery, **values)
    write_text(text, path)
    if png:
        write_png(drawn, f"{values['title']}: {values['lede']}", path.with_suffix(".png"))
    return {
        "name": name,
        "page": str(path),
        "page_bytes": path.stat().st_size,
        **({"png": str(path.with_suffix(".png"))} if png else {}),
        "sums": [step["sum"] for step in steps],
        "gallery_pairs": gallery.shown,
        "gallery_pairs_wanted": gallery.wanted,
        "pictures": len(gallery.pictures),
        "pictures_missing": len(gallery.missing),
    }


def default_page(run: Run, name: str) -> Path:
    """RUN/report.html for the ranking `default`, RUN/report-NAME.html for another."""
    return run.root / ("report.html" if name == "default" else f"report-{name}.html")


def page_values(run: Run, ranking: Ranking, steps: list[dict[str, Any]]) -> dict[str, Any]:
    """Words and numbers of the page's head, the same for both pages."""
    settings, summary = ranking.settings, run.summary()
    return {
        "title": f"{summary['dataset']}: ranking “{settings['name']}”",
        "lede": f"{settings['selected_pairs']:,} of {ranking.pairs:,} ranked pairs are selected by the metric "
        f"{settings['metric']}",
        "purpose": metric_purpose(settings["metric_sql"]),
        "settings": _settings_shown(settings),
        "metric_sql": settings["metric_sql"].strip(),
        "steps": steps,
        "scorers": ranking.scorers,
        "ranked": ranking.pairs,
        "preferred_by": ranking.preferred_by,
    }


def _settings_shown(settings: dict[str, Any]) -> dict[str, str]:
    """What the ranking was asked for and what came of it; what an older ranking does not state is left out."""
    psi = " + ".join(f"{weight:g} {scorer}" for scorer, weight in settings["psi"].items())
    reverse, wanted = settings.get("reverse", False), settings.get("wanted_pairs", settings["selected_pairs"])
    short = f"; the limits leave no more of the {wanted:,} asked for" if settings["selected_pairs"] < wanted else ""
    bound = f"quality {'to' if reverse else 'from'} {settings['least_selected_quality']:.4g}"
    shown = {
        "selection": f"--top {settings['top']}: {bound}{short}",
        "metric": settings["metric"] + (", worst first" if reverse else ""),
        "ψ": f"{psi} ({settings['psi_norm']})",
    }
    if settings.get("prefer", HUMAN) != HUMAN:
        turned, judged = settings["turned_pairs"], settings["judged_pairs"]
        shown["preferred by"] = (
            f"rule {settings['prefer']}, not by people; {turned:,} of {judged:,} judged pairs turned"
        )
    for key in ("params", "filters", "limits"):
        if stated := settings.get(key):
            shown[key] = ", ".join(f"{name} = {value}" for name, value in stated.items())
    return shown | ({"coverage": coverage_words(settings["coverage"])} if settings.get("coverage") else {})


def write_png(drawn: list[Figure], title: str, path: Path) -> None:
    """All charts as one picture, in the light palette. Raises: WriteError."""
    import vl_convert  # takes seconds to load

    png = vl_convert.vegalite_to_png(themed(_sheet(drawn, title), PALETTES["light"]), scale=PNG_SCALE)
    with atomic_path(path) as temporary:
        temporary.write_bytes(png)


def _sheet(drawn: list[Figure], title: str) -> dict[str, Any]:
    """The figures in rows of three, each with its title; a row that is short is filled by its last one."""
    ordered = sorted(drawn, key=lambda figure: next(i for i, word in enumerate(PNG_ORDER) if word in figure.key))
    rows = []
    for group in batched(ordered, PNG_COLUMNS):
        room = PNG_COLUMN_PX * (PNG_COLUMNS - len(group))
        widths = [PNG_PLOT_PX] * (len(group) - 1) + [PNG_PLOT_PX + room]
        cells = [
            figure.chart.properties(width=width, height=PNG_PLOT_PX * 2 // 3, title=figure.title)
            for figure, width in zip(group, widths, strict=True)
        ]
        rows.append(alt.hconcat(*cells, spacing=30).resolve_scale(color="independent", shape="independent"))
    sheet = alt.vconcat(*rows, title=alt.TitleParams(title, fontSize=20, offset=24), spacing=40)
    sheet = sheet.resolve_scale(color="independent", shape="independent")
    return {**sheet.to_dict(), "config": {**CONFIG, "background": "@paper"}, "padding": 28}
