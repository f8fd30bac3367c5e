"""What `curate report` prints."""

from typing import Any


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
