"""docs/gpu.md: how to run it, and a table of what the last run found."""

from pathlib import Path
from typing import Any

from benchmarks.gpu.plan import PARTS, Part, recorded

TEXT = Path(__file__).parent / "page.md"
NO_GPU = """**No GPU has run this yet.** What was found, below, is from a rehearsal on the CPU at tiny size: every
part runs to its end there, and what must be equal is equal. Its speeds say nothing."""


def write_page(record: Path, docs: Path) -> None:
    """The page of what is recorded so far."""
    lines = recorded(record)
    start = next(line for line in lines if line["part"] == "start")
    shares = "\n".join(f"| `{part.name}` | {part.title} | {part.share} |" for part in PARTS)
    head = NO_GPU if start["rehearsal"] else f"Measured on {start['machine']}, {start['date']}."
    text = TEXT.read_text("utf-8").replace("{state}", head).replace("{parts}", shares)
    found = "\n".join(_found(part, [line for line in lines if line["part"] == part.name], start) for part in PARTS)
    docs.mkdir(parents=True, exist_ok=True)
    (docs / "gpu.md").write_text(f"{text}\n{found}", "utf-8")


def _found(part: Part, lines: list[dict[str, Any]], start: dict[str, Any]) -> str:
    command = f"python -m benchmarks.gpu{' --rehearse' if start['rehearsal'] else ''} --only {part.name}"
    ended = next((line["ended"] for line in lines if "ended" in line), "not begun")
    rows = [line for line in lines if "what" in line]
    table = ["| what | found | bound | command |", "|---|---|---|---|", *(_row(row, command) for row in rows)]
    seconds = next((f", {line['seconds']:.0f} s" for line in lines if line.get("seconds")), "")
    return f"### {part.title}\n\n`{part.name}`: {ended}{seconds}\n\n" + ("\n".join(table) + "\n" if rows else "")


def _row(row: dict[str, Any], command: str) -> str:
    if row["found"] is None:
        return f"| {row['what']} | not measured: {row['note']} | | `{command}` |"
    bound = "" if row["at_most"] is None else f"at most {row['at_most']:.3g}"
    bound = bound if row["at_least"] is None else f"at least {row['at_least']:.3g}"
    note = f" ({row['note']})" if row["note"] else ""
    verdict = "" if row["holds"] in (None, True) else ", **not so**"
    found = f"{row['found']:.4g} {row['unit']}".strip()
    return f"| {row['what']} | {found}{note} | {bound}{verdict} | `{command}` |"
