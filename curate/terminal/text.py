"""What the commands print of their reports: counts as sums that the reader can add up."""

import json
import math
import re
from typing import Any


def embed_lines(summary: dict[str, Any]) -> list[str]:
    """The counts as sums that the reader can add up; of an unfinished run, what is left."""
    if summary["parts_left"]:
        return [
            f"parts   {summary['parts_computed']:,} computed, {summary['parts_left']:,} of {summary['parts']:,} left, "
            f"the first is {summary['first_left']}; other processes may be at them, "
            "`curate embed` without --part-range finishes the run"
        ]
    ties = f", of them {summary['ties']:,} ties" if summary["ties"] else ""
    return [
        f"rows    {sum_line(summary['source_rows'], summary['pairs'], 'pairs', summary['dropped_pairs'])}{ties}",
        f"images  {sum_line(summary['images'], summary['scored_images'], 'scored', summary['dropped_images'])}",
        f"scores  {summary['scored_prompt_images']:,} (prompt, image) by {', '.join(summary['scorers'])}; "
        f"{summary['prompts']:,} prompts",
        *(
            f"note: {count:,} scores of {scorer} are not finite; ranking and comparing take them as missing"
            for scorer, count in summary.get("not_finite", {}).items()
        ),
    ]


def parity_lines(report: dict[str, Any]) -> list[str]:
    """How far the run's scores are from float32, exact decoding and no compiler."""
    how = f"{report['precision']}, decode {report['decode']}" + ", compiled" * report["compiled"]
    lines = [f"parity  {report['images']:,} images, {report['scores']:,} scores: {how}, beside fp32, decode pillow"]
    for scorer, found in report["scorers"].items():
        lines.append(
            f"        {scorer}: max |Δ| {found['max']:.3g}, mean |Δ| {found['mean']:.3g}; "
            f"the scores' standard deviation is {found['spread']:.3g}"
        )
    top = report["top"]
    best = f"{top['kept']:,} of {top['pairs']:,} pairs" if top else "not measured: the sample has no judgements to rank"
    return [
        *lines,
        f"        the best 5.33 % of {report['pairs']:,} pairs, by qsd: {best}" + " are the same" * bool(top),
    ]


def sum_line(total: int, kept: int, kept_name: str, dropped: dict[str, int]) -> str:
    """total = kept + each reason's count."""
    terms = [f"{kept:,} {kept_name}", *(f"{count:,} {reason}" for reason, count in dropped.items())]
    return f"{total:,} = {' + '.join(terms)}"


def progress_line(numbers: dict[str, Any]) -> str:
    """What a run has done, how fast, and how long the rest will take."""
    busy = "" if numbers["busy_share"] is None else f", towers busy {100 * numbers['busy_share']:.0f} %"
    left = "" if numbers["seconds_left"] is None else f", {duration(numbers['seconds_left'])} left"
    return (
        f"images {numbers['images_done']:,}/{numbers['images']:,}, {numbers['images_per_sec']:,.1f}/s{busy}, "
        f"parts {numbers['parts_done']:,}/{numbers['parts']:,}{_dropped_words(numbers['dropped'])}{left}"
    )


def status_lines(report: dict[str, Any]) -> list[str]:
    """A run's state, its last progress, each device where there are several, and under what settings it runs."""
    why = f": {report['error']}" if "error" in report else ""
    lines = [f"{report['state']:<9} {report['run']}{why}"]
    if "elapsed_sec" in report:
        lines.append(f"progress  {progress_line(report)}, {duration(report['elapsed_sec'])} so far")
    devices = report.get("devices", {})
    if len(devices) > 1:
        for name, of in devices.items():
            busy = "" if of["busy_share"] is None else f", busy {100 * of['busy_share']:.0f} %"
            lines.append(f"device    {name}: {of['images']:,} images{busy}")
    settings = ", ".join(f"{name} {value}" for name, value in report.get("settings", {}).items())
    return [*lines, *([f"settings  {settings}"] if settings else [])]


def fetch_lines(report: dict[str, Any]) -> list[str]:
    """What was brought, and what stood already."""
    stood = report["files"] - report["files_fetched"]
    return [
        f"files   {report['files']:,} = {report['files_fetched']:,} fetched + {stood:,} already there; "
        f"{report['parts']:,} parts, {report['bytes_fetched'] / 1e6:,.1f} MB",
        f"run     {report['run']}, the same as {report['url']}; `curate rank --run {report['run']}` goes on from here",
    ]


def duration(seconds: float) -> str:
    """`42 s`, `3 min 5 s`, `2 h 7 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"


def _dropped_words(dropped: dict[str, int]) -> str:
    if not dropped:
        return ""
    each = ", ".join(f"{count:,} {reason}" for reason, count in dropped.items())
    return f", dropped {sum(dropped.values()):,} ({each})"


def rank_lines(report: dict[str, Any], run: str) -> list[str]:
    """What was ranked, selected and passed over, and by which metric."""
    blend = " + ".join(f"{weight:g} {scorer}" for scorer, weight in report["psi"].items())
    given = "".join(f", {name} = {value}" for name, value in report["params"].items())
    over = "".join(f", {count:,} {reason}" for reason, count in report["passed_over"].items())
    short = report["selected_pairs"] < report["wanted_pairs"]
    lines = [
        f"pairs     {sum_line(report['pairs'], report['base_pairs'], 'ranked', report['dropped_pairs'])}",
        f"selected  {report['selected_pairs']:,} of {report['base_pairs']:,} (--top {report['top']}), "
        f"quality {'to' if report['reverse'] else 'from'} {report['least_selected_quality']:.4f}"
        + (f"; the limits leave no more of the {report['wanted_pairs']:,} asked for" if short else ""),
        *([f"passed    {sum(report['passed_over'].values()):,} better ones over{over}"] if over else []),
        *_nsfw_lines(report),
        f"covers    {coverage_words(report['coverage'])}",
        f"metric    {report['metric']}{given}, psi = {blend} ({report['psi_norm']})" + ", reversed" * report["reverse"],
        *_calibration_lines(report.get("calibration")),
        f"written   {run}/rankings/{report['name']}.parquet; {run}/curation.duckdb has every table as a view",
    ]
    return lines


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


def export_lines(report: dict[str, Any]) -> list[str]:
    """What was written, split by split, and how many tars stood already."""
    lines = []
    for index in report.get("splits", {"": report}).values():
        size_mb = sum(entry["bytes"] for entry in index["shards"]) / 1e6
        folder = "/".join(filter(None, [report["output"], (index["split"] or {}).get("name")]))
        lines.append(
            f"written  {index['pairs']:,} pairs over {index['prompts']:,} prompts in {len(index['shards']):,} shards, "
            f"{size_mb:,.1f} MB: {folder}"
        )
    return lines + ([f"kept     {report['kept_shards']:,} of them were there already"] if report["kept_shards"] else [])


def verify_lines(report: dict[str, Any]) -> list[str]:
    """What was checked, then each fault on a line of its own."""
    checked = ", ".join(f"{count:,} {what}" for what, count in report["checked"].items()) or "nothing"
    faults = report["faults"]
    return [
        f"checked  {checked}",
        *(f"note     {note}" for note in report["notes"]),
        *(f"fault    {fault['where']}: {fault['what']}" for fault in faults),
        f"{'sound' if report['sound'] else 'damaged'}  {report['path']}"
        + (f": {len(faults):,} faults" if faults else ""),
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
    lines = [
        f"metric    {report['metric']}: sound",
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
            f"{_one_line(item['prompt'])}"
            for item in report["moved"]
        ),
    ]


def report_lines(written: dict[str, Any]) -> list[str]:
    """What the page counts and shows, what it had no room for, where it lies."""
    shown, wanted = written["gallery_pairs"], written["gallery_pairs_wanted"]
    gallery = f"gallery  {shown:,} pairs, {written['pictures']:,} pictures"
    if shown < wanted:
        gallery += f"; {wanted - shown:,} of {wanted:,} pairs left out, the page would exceed 28 MB"
    if written["pictures_missing"]:
        gallery += f"; {written['pictures_missing']:,} pictures can no longer be read"
    return [
        *(f"counts   {line}" for line in written["sums"]),
        gallery,
        f"page     {written['page']} ({written['page_bytes'] / 1e6:.1f} MB)",
        *([f"picture  {written['png']}"] if "png" in written else []),
    ]


def search_lines(found: list[dict[str, Any]]) -> list[str]:
    """The nearest prompts with what became of their pairs, or the pairs themselves."""
    if not found:
        return ["no prompt is there to compare with"]
    if "pair_id" in found[0]:
        head = f"{'similarity':>10}{'rank':>9}{'quality':>9}  {'':<8}  {'pair':<16}  prompt"
        return [head, *(_search_pair_line(row) for row in found)]
    return [
        f"{'similarity':>10}{'pairs':>8}{'selected':>10}{'best rank':>11}  prompt",
        *(
            f"{row['similarity']:>10.4f}{row['pairs']:>8,}{row['selected']:>10,}{_count(row['best_rank']):>11}"
            f"  {_one_line(row['prompt'])}"
            for row in found
        ),
    ]


def _search_pair_line(row: dict[str, Any]) -> str:
    quality = "-" if row["quality"] is None else f"{row['quality']:.4f}"
    chosen = "selected" if row["selected"] else ""
    return (
        f"{row['similarity']:>10.4f}{_count(row['rank']):>9}{quality:>9}  {chosen:<8}  {row['pair_id']:<16}"
        f"  {_one_line(row['prompt'])}"
    )


def _one_line(prompt: str | None) -> str:
    """A prompt without line breaks, nor anything else that a terminal obeys; a dash for one that the run lacks."""
    return "-" if prompt is None else re.sub(r"[\s\x00-\x1f\x7f-\x9f]+", " ", prompt)


def _count(value: int | None) -> str:
    """A rank, or a dash for what is not ranked."""
    return "-" if value is None else f"{value:,}"


def json_text(report: dict[str, Any] | list[dict[str, Any]]) -> str:
    """The report as one JSON document. JSON knows no infinity: a bound that is none becomes null."""
    return json.dumps(_without_infinity(report), indent=2, allow_nan=False)


def _without_infinity(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_infinity(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_infinity(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
