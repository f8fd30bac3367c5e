"""What `curate export-shards`, `export-for` and `verify` print."""

from typing import Any


def export_lines(report: dict[str, Any]) -> list[str]:
    """What was written, split by split, and how many tars stood already."""
    if "dry_run" in report:
        return _planned_lines(report)
    lines = []
    for index in report.get("splits", {"": report}).values():
        size_mb = sum(entry["bytes"] for entry in index["shards"]) / 1e6
        folder = "/".join(filter(None, [report["output"], (index["split"] or {}).get("name")]))
        lines.append(
            f"written  {index['pairs']:,} pairs over {index['prompts']:,} prompts in {len(index['shards']):,} shards, "
            f"{size_mb:,.1f} MB: {folder}"
        )
    return lines + ([f"kept     {report['kept_shards']:,} of them were there already"] if report["kept_shards"] else [])


def layout_lines(report: dict[str, Any]) -> list[str]:
    """What was written in the layout of another trainer."""
    if "dry_run" in report:
        return _planned_lines(report)
    size = f"{report['files']:,} files, {report['bytes'] / 1e6:,.1f} MB"
    return [f"written  {report['pairs']:,} pairs as {report['layout']}, {size}: {report['output']}"]


def _planned_lines(report: dict[str, Any]) -> list[str]:
    size_bytes = report["picture_bytes"]
    size = "of a size not known yet" if size_bytes is None else f"of {size_bytes / 1e6:,.1f} MB"
    counts = f"{report['pairs']:,} pairs over {report['prompts']:,} prompts, {2 * report['pairs']:,} pictures {size}"
    return [f"would write  {counts}: {report['output']}"]


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
