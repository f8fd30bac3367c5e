"""What `curate compare` prints."""

from typing import Any


def compare_lines(report: dict[str, Any]) -> list[str]:
    """Who wins in a sentence and a table, what scores do not show, categories, and what must be known of them."""
    lines = [report["headline"], *verdict_lines(report), band_line(report)]
    lines += spread_lines(report) + category_lines(report)
    lines += [f"note: {note}" for note in report["notes"]]
    left_out = report["pictures_wanted"] - report["pictures"] - report["pictures_missing"]
    room = f"; {left_out:,} more have no room in it" if left_out else ""
    lost = f"; {report['pictures_missing']:,} can no longer be read" if report["pictures_missing"] else ""
    pictures = f"{report['pictures']:,} pictures of at most {report['picture_px']} px{room}{lost}"
    return [*lines, f"page {report['page']} ({report['page_bytes'] / 1e6:.1f} MB, {pictures})"]


def verdict_lines(report: dict[str, Any]) -> list[str]:
    """A line per scorer, impartial ones first; with more than two models one per scorer and model."""
    several = len(report["models"]) > 2
    width = max(map(len, report["models"])) + 2 if several else 0
    standings = {(item["scorer"], item["model"]): item for item in report["standings"]}
    verdicts = {(v["scorer"], v["model"]): v for v in report["verdicts"] if v["against"] == report["against"]}
    lines = [
        f"{report['pairs']:,} pairs over {report['prompts']:,} prompts",
        f"{'scorer':<12}{'model' if several else '':<{width}}{'win rate':>9}  {'95 % interval':>15}  "
        f"{'win/tie/lose':>14}  {'any difference':>14}  {'effect (95 % interval)':>24}  {'sign test':>10}  {'mean':>18}"
        + (f"  {'strength (95 % interval)':>24}" if several else ""),
    ]
    for scorer in report["scorers"]:
        for model in report["models"] if several else report["models"][:1]:
            item, v = standings[scorer, model], verdicts.get((scorer, model))
            cells = _verdict(v) if v else f"{'':>98}"
            mean = f"{v['mean_against']:.4g} -> {v['mean_model']:.4g}" if v and not several else f"{item['mean']:.4g}"
            mean = f"{mean:>18}" + (f"  {_interval(item, 'strength', '+.2f'):>24}" if several else "")
            name = f"{scorer:<12}{model if several else '':<{width}}"
            lines.append(f"{name}{cells}  {mean}" + ("  in-sample scorer" if (v or item)["in_sample"] else ""))
    return lines


def _verdict(v: dict[str, Any]) -> str:
    raw = f"{100 * v['raw_win_rate']:.1f} %"
    return f"{rate(v)}  {raw:>14}  {_interval(v, 'effect', '+.2f'):>24}  {p_value(v)}"


def band_line(report: dict[str, Any]) -> str:
    """What a tie is, of each scorer."""
    bands = ", ".join(f"{item['scorer']} {item['tie_band']:.3g}" for item in report["noise"])
    unit = "another prompt" if any(item["between"] == "prompts" for item in report["noise"]) else "another seed"
    return f"ties differ by at most {report['tie_band']:g} of what {unit} changes: {bands}; effects are in that unit"


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
