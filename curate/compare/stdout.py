"""What `curate compare` prints."""

from typing import Any


def compare_lines(report: dict[str, Any]) -> list[str]:
    """A table by scorer, what scores do not show, categories, and what must be known before them."""
    lines = two_model_lines(report) if len(report["models"]) == 2 else many_model_lines(report)
    lines += spread_lines(report) + category_lines(report)
    lines += [f"note: {note}" for note in report["notes"]]
    left_out = report["pictures_wanted"] - report["pictures"] - report["pictures_missing"]
    room = f"; {left_out:,} more have no room in it" if left_out else ""
    lost = f"; {report['pictures_missing']:,} can no longer be read" if report["pictures_missing"] else ""
    pictures = f"{report['pictures']:,} pictures of at most {report['picture_px']} px{room}{lost}"
    return [*lines, f"page {report['page']} ({report['page_bytes'] / 1e6:.1f} MB, {pictures})"]


def two_model_lines(report: dict[str, Any]) -> list[str]:
    """One line per scorer."""
    lines = [
        f"{report['model']} against {report['against']}: {report['pairs']:,} pairs over {report['prompts']:,} prompts",
        f"{'scorer':<12}{'win rate':>9}  {'95 % interval':>15}  {'win/tie/lose':>14}  {'mean':>18}  "
        f"{'mean change (95 % interval)':>30}  {'sign test':>10}",
    ]
    for v in report["verdicts"]:
        means = f"{v['mean_against']:.4g} -> {v['mean_model']:.4g}"
        change = _interval(v, "mean_change", "+.3g")
        lines.append(f"{v['scorer']:<12}{rate(v)}  {means:>18}  {change:>30}  {p_value(v)}{_mark(v)}")
    return lines


def many_model_lines(report: dict[str, Any]) -> list[str]:
    """A block per scorer, a line per model."""
    models, against = report["models"], report["against"]
    width = max(12, max(map(len, models)) + 4)
    lines = [
        f"{len(models)} models, win rates against {against}: "
        f"{report['pairs']:,} pairs over {report['prompts']:,} prompts"
    ]
    verdicts = {(v["scorer"], v["model"]): v for v in report["verdicts"] if v["against"] == against}
    for scorer in dict.fromkeys(item["scorer"] for item in report["standings"]):
        lines.append(
            f"{scorer:<{width}}{'mean':>11}{'median':>11}  {'strength':>22}{'win rate':>9}  {'95 % interval':>15}"
            f"  {'win/tie/lose':>14}  {'sign test':>10}"
        )
        for item in (item for item in report["standings"] if item["scorer"] == scorer):
            strength = _interval(item, "strength", "+.2f")
            verdict = verdicts.get((scorer, item["model"]))
            rest = f"{rate(verdict)}  {p_value(verdict)}" if verdict else ""
            name = f"  {item['model']}"
            lines.append(
                f"{name:<{width}}{item['mean']:>11.4g}{item['median']:>11.4g}  {strength:>22}{rest}{_mark(item)}"
            )
    return lines


def spread_lines(report: dict[str, Any]) -> list[str]:
    """Diversity and distance, a line per tower and model."""
    width = max(map(len, report["models"])) + 2
    lines = [
        f"{'tower':<12}{'model':<{width}}{'diversity (95 % interval)':>28}  {'distance from ' + report['against']:>28}"
    ]
    for item in report["spreads"]:
        diversity = _interval(item, "diversity", ".4f", "needs two pictures a prompt")
        distance = _interval(item, "from_reference", ".4f")
        lines.append(f"{item['tower']:<12}{item['model']:<{width}}{diversity:>28}  {distance:>28}")
    return lines


def category_lines(report: dict[str, Any]) -> list[str]:
    """Win rates against the reference, a line per category and model, a column per scorer."""
    rows = [v for v in report["categories"] if v["against"] == report["against"]]
    if not rows:
        return []
    scorers = list(dict.fromkeys(v["scorer"] for v in rows))
    several = len(report["models"]) > 2
    found = {(v["category"], v["model"], v["scorer"]): v for v in rows}
    titles = {(v["category"], v["model"]): v["category"] + f", {v['model']}" * several for v in rows}
    width = max(map(len, titles.values())) + 2
    lines = [f"{'category':<{width}}{'prompts':>8}" + "".join(f"{scorer:>12}" for scorer in scorers)]
    for (category, model), title in titles.items():
        verdicts = [found.get((category, model, scorer)) for scorer in scorers]
        prompts = max(v["prompts"] for v in verdicts if v)
        cells = "".join(f"{100 * v['win_rate']:>10.1f} %" if v else f"{'-':>12}" for v in verdicts)
        lines.append(f"{title:<{width}}{prompts:>8}{cells}")
    return lines


def rate(v: dict[str, Any]) -> str:
    interval = f"{100 * v['win_rate_low']:.1f} - {100 * v['win_rate_high']:.1f} %"
    counts = f"{v['wins']}/{v['ties']}/{v['losses']}"
    return f"{100 * v['win_rate']:>7.1f} %  {interval:>15}  {counts:>14}"


def _interval(item: dict[str, Any], name: str, form: str, absent: str = "-") -> str:
    if item[name] is None:
        return absent
    return f"{item[name]:{form}} ({item[f'{name}_low']:{form}} .. {item[f'{name}_high']:{form}})"


def p_value(v: dict[str, Any]) -> str:
    shown = f"p = {v['sign_p_value']:.4f}" if v["sign_p_value"] >= 0.0001 else "p < 0.0001"
    return f"{shown:>10}"


def _mark(item: dict[str, Any]) -> str:
    return "  in-sample scorer" if item["in_sample"] else ""
