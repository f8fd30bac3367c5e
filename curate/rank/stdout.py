"""What `curate rank`, `metrics` and `diff` print."""

from typing import Any

from curate.rank.prefer import HUMAN
from curate.terminal.text import one_line, sum_line


def rank_lines(report: dict[str, Any], run: str) -> list[str]:
    """What was ranked, selected and passed over, and by which metric."""
    blend = " + ".join(f"{weight:g} {scorer}" for scorer, weight in report["psi"].items())
    given = "".join(f", {name} = {value}" for name, value in report["params"].items())
    over = "".join(f", {count:,} {reason}" for reason, count in report["passed_over"].items())
    short = report["selected_pairs"] < report["wanted_pairs"]
    return [
        f"pairs     {sum_line(report['pairs'], report['base_pairs'], 'ranked', report['dropped_pairs'])}",
        f"selected  {report['selected_pairs']:,} of {report['base_pairs']:,} (--top {report['top']}), "
        f"quality {'to' if report['reverse'] else 'from'} {report['least_selected_quality']:.4f}"
        + (f"; the limits leave no more of the {report['wanted_pairs']:,} asked for" if short else ""),
        *([f"passed    {sum(report['passed_over'].values()):,} better ones over{over}"] if over else []),
        *_rule_lines(report),
        *_nsfw_lines(report),
        f"covers    {coverage_words(report['coverage'])}",
        f"metric    {report['metric']}{given}, psi = {blend} ({report['psi_norm']})" + ", reversed" * report["reverse"],
        *_calibration_lines(report.get("calibration")),
        f"written   {run}/rankings/{report['name']}.parquet; {run}/curation.duckdb has every table as a view",
    ]


def _rule_lines(report: dict[str, Any]) -> list[str]:
    """By which rule pairs are preferred, if by one, and how often it overrules the human."""
    if report["prefer"] == HUMAN:
        return []
    judged, turned = report["judged_pairs"], report["turned_pairs"]
    told = f"{turned:,} of {judged:,} judged pairs turned ({turned / judged:.1%})" if judged else "no human judged them"
    return [f"preferred by rule {report['prefer']}, not by a human; {told}"]


def _nsfw_lines(report: dict[str, Any]) -> list[str]:
    """Which scorers --max-nsfw went by."""
    if not report["nsfw_scorers"]:
        return []
    return [f"nsfw      at most {report['filters']['max_nsfw']:g} by {' and '.join(report['nsfw_scorers'])}"]


def coverage_words(coverage: dict[str, Any]) -> str:
    """How many prompts, groups and topics the selection covers, of those that were ranked."""
    words = {"prompts": "prompts", "groups": "groups of near-duplicates", "topics": "topics"}
    kept = [(f"selected_{key}", key, word) for key, word in words.items() if key in coverage]
    return ", ".join(f"{coverage[chosen]:,} of {coverage[key]:,} {word}" for chosen, key, word in kept)


def _calibration_lines(calibration: dict[str, Any] | None) -> list[str]:
    """The fitted model, and how honest its probabilities are on prompts held out."""
    if calibration is None:
        return []
    weights = " ".join(f"{weight:+.4g} {scorer}" for scorer, weight in calibration["weights"].items())
    lines = [
        f"odds      that the human is right: log-odds = {weights}, times each margin; {calibration['pairs']:,} pairs"
    ]
    if "held_out_accuracy" not in calibration:
        return [*lines, "          nothing held out: too few prompts"]
    lines.append(
        f"          on held-out prompts: accuracy {100 * calibration['held_out_accuracy']:.1f} %, "
        f"log loss {calibration['held_out_log_loss']:.4f} (chance 50 %, 0.6931)"
    )
    return lines + [
        f"          said {100 * item['predicted']:.1f} %, was {100 * item['observed']:.1f} % of {item['pairs']:,}"
        for item in calibration["bins"]
    ]


def metrics_lines(metrics: list[dict[str, Any]]) -> list[str]:
    """Each metric with its purpose, source and parameters."""
    lines = []
    for metric in metrics:
        lines += [f"{metric['name']:<12}{metric['purpose']}", f"{'':<12}source: {metric['source']}"]
        lines += [
            f"{'':<12}--param {name}={value['default']}, {value['least']} to {value['most']}: {value['meaning']}"
            for name, value in metric["parameters"].items()
        ]
    return lines


def check_lines(report: dict[str, Any]) -> list[str]:
    """What a metric did on a run, and how like the shipped ones it is."""
    quality = report["quality"]
    changing = ", ".join(report["not_repeatable"])
    lines = [
        f"metric    {report['metric']}: {f'not repeatable, by {changing}' if changing else 'sound'}",
        f"pairs     {report['pairs']:,} eligible = {report['ranked']:,} with a quality + {report['nulls']:,} without",
        f"quality   {quality['least']:.6g} to {quality['greatest']:.6g}, median {quality['median']:.6g}, "
        f"{report['distinct']:,} distinct values; {report['tied']:,} pairs share theirs with another",
        f"{'against':<12}{'rank correlation':>18}{'of the top 5.33 % shared':>26}",
    ]
    for item in report["against"]:
        found = "-" if item["rank_correlation"] is None else f"{item['rank_correlation']:+.3f}"
        lines.append(f"{item['metric']:<12}{found:>18}{100 * item['shared']:>24.1f} %")
    return lines


def diff_lines(report: dict[str, Any]) -> list[str]:
    """How two rankings differ, and the pairs that moved most."""
    one, two = report["one"], report["two"]
    correlation = "none" if report["rank_correlation"] is None else f"{report['rank_correlation']:+.4f}"
    return [
        f"{one}: {report['ranked_one']:,} ranked, {report['selected_one']:,} selected; "
        f"{two}: {report['ranked_two']:,} ranked, {report['selected_two']:,} selected",
        f"both select {report['selected_both']:,}: {100 * report['overlap']:.1f} % of what either selects; "
        f"rank correlation {correlation} over the {report['ranked_both']:,} pairs that both rank",
        f"moved most, as percentiles (1 = best):{'':>8}{one:>12}{two:>12}",
        *(
            f"  {item['pair_id']}  {item['percentile_one']:>10.4f}{item['percentile_two']:>12.4f}  "
            f"{one_line(item['prompt'])}"
            for item in report["moved"]
        ),
    ]
