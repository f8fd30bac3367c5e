"""What `curate embed`, `status` and `fetch` print."""

from typing import Any

from curate.terminal.text import duration, sum_line


def embed_lines(summary: dict[str, Any]) -> list[str]:
    """The counts as sums that the reader can add up; of an unfinished run, what is left."""
    parity = parity_lines(summary["parity"]) if "parity" in summary else []
    if summary["parts_left"]:
        return [
            f"parts   {summary['parts_computed']:,} computed, {summary['parts_left']:,} of {summary['parts']:,} left, "
            f"the first is {summary['first_left']}; other processes may be at them, "
            "`curate embed` without --part-range finishes the run",
            *parity,
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
        *parity,
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


def _dropped_words(dropped: dict[str, int]) -> str:
    if not dropped:
        return ""
    each = ", ".join(f"{count:,} {reason}" for reason, count in dropped.items())
    return f", dropped {sum(dropped.values()):,} ({each})"
