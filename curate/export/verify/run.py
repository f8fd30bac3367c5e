"""A run directory against itself: every part against its marker, every table against the counts."""

import json
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from curate.database.connection import connect_views, fetch_count
from curate.errors import CurateError
from curate.export.verify.shards import Findings
from curate.rank.rankings import ranking_settings
from curate.storage.files import file_sha256
from curate.storage.run import PART_TABLES, Run
from curate.storage.threads import in_threads
from curate.terminal.progress import Advance

# Tables that `embed` and `rank` write whole, without a marker.
WHOLE = ("dropped/plan.parquet", "dropped/rank-")


def part_markers(run: Run) -> list[Path]:
    """The markers of the run's parts, in order."""
    return sorted((run.root / "parts").glob("*.json"))


def verify_run(run: Run, threads: int, advance: Advance) -> Findings:
    """Settings, each part's files by sha256 and rows, no file that no marker names, the counts, each ranking."""
    findings, summary = Findings(), None
    try:
        run.settings()
        summary = run.summary()
    except CurateError as error:
        findings.fault(str(run.root), str(error))
    marked: set[str] = set()
    for marker, entries, faults in in_threads(lambda path: _part(run, path), part_markers(run), threads):
        findings.count("parts")
        findings.count("files", len(entries))
        marked |= set(entries)
        findings.faults += [{"where": f"parts/{marker}: {where}", "what": what} for where, what in faults]
        advance(1)
    for name in PART_TABLES:
        for path in sorted(run.table(name).glob("*.parquet")):
            relative = str(path.relative_to(run.root))
            if relative not in marked and not relative.startswith(WHOLE):
                findings.fault(relative, "belongs to no part; `curate embed` was stopped here, or the marker is gone")
    if summary is not None:
        _verify_counts(run, summary, findings)
        _verify_rankings(run, findings)
    return findings


def _part(run: Run, marker: Path) -> tuple[str, dict[str, Any], list[tuple[str, str]]]:
    """A part's files and what is wrong with them."""
    try:
        entries = dict(json.loads(marker.read_text(encoding="utf-8")))
        faults = [(file, what) for file, entry in entries.items() for what in _wrong_file(run.root / file, entry)]
        return marker.name, entries, faults
    except (OSError, ValueError, KeyError, TypeError) as error:
        return marker.name, {}, [("marker", f"cannot be read: {error}; run `curate embed` again")]


def _wrong_file(path: Path, entry: dict[str, Any]) -> list[str]:
    if not path.is_file():
        return ["is missing; run `curate embed` again"]
    if file_sha256(path) != entry["sha256"]:
        return ["its sha256 is not that of the marker; run `curate embed` again"]
    rows = pq.read_metadata(path).num_rows
    return [] if rows == entry["rows"] else [f"has {rows:,} rows, the marker says {entry['rows']:,}"]


def _verify_counts(run: Run, summary: dict[str, Any], findings: Findings) -> None:
    """Rows of the tables against what `curate embed` counted."""
    wanted = {"pairs": "pairs", "prompts": "prompts", "images": "scored_images", "scores": "scored_prompt_images"}
    try:
        connection = connect_views(run, rankings=False)
        for table, key in wanted.items():
            rows = fetch_count(connection, table)
            findings.count("tables")
            if rows != summary[key]:
                findings.fault(table, f"has {rows:,} rows, embed.json says {summary[key]:,}")
    except (CurateError, duckdb.Error, KeyError) as error:
        findings.fault(str(run.root), str(error))


def _verify_rankings(run: Run, findings: Findings) -> None:
    """Each ranking's rows against its own settings: ranks from 1 without a gap, as many selected as it says."""
    for path in sorted(run.rankings.glob("*.parquet")):
        where = f"rankings/{path.name}"
        try:
            stated = ranking_settings(run, path.stem)
            table = pq.read_table(path, columns=["rank", "selected", "pair_id"])
        except (CurateError, OSError, ValueError, pa.ArrowException) as error:
            findings.fault(where, str(error))
            continue
        findings.count("rankings")
        ranks, selected = table["rank"].to_numpy(), int(table["selected"].to_numpy().sum())
        if sorted(ranks.tolist()) != list(range(1, len(ranks) + 1)):
            findings.fault(where, "its ranks do not run from 1 without a gap")
        if len(ranks) != stated["base_pairs"]:
            findings.fault(where, f"has {len(ranks):,} pairs, its toml says {stated['base_pairs']:,}")
        if selected != stated["selected_pairs"]:
            findings.fault(where, f"selects {selected:,} pairs, its toml says {stated['selected_pairs']:,}")
