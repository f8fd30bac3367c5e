"""The pairs that a report shows: which, in what words, from which rows of the ranking."""

import re
from dataclasses import dataclass
from typing import Any

import duckdb

from curate.database import Psi, connect_views, create_psi_views, query_text
from curate.run import Run
from curate.stages.rank import ranking_settings
from curate.stages.report_figures import Rows, query_rows
from schemas.reasons import REASONS

SIDES = ("preferred", "rejected")


@dataclass(frozen=True)
class Ranking:
    """A ranking opened for reading: views report_ranking, pair_psi, pair_scores, prompts, images; its settings."""

    connection: duckdb.DuckDBPyConnection
    settings: dict[str, Any]
    scorers: list[str]
    cut: int  # rank of the last selected pair

    @property
    def pairs(self) -> int:
        """How many are ranked."""
        return int(self.settings["base_pairs"])


def open_ranking(run: Run, name: str, kind: str = "view") -> Ranking:
    """Open one ranking under its own psi, whichever was written last. Raises RunError.

    kind: "view" computes psi when it is asked for; "table" now and once, for a server that asks often.
    """
    summary, settings = run.summary(), ranking_settings(run, name)
    connection = connect_views(run)
    create_psi_views(connection, summary["scorers"], Psi(settings["psi"], settings["psi_norm"]))
    columns = connection.sql(f"from ranking_{name} limit 0").columns
    absent = "" if "passed_over" in columns else ", null::varchar as passed_over"
    connection.execute(f"create view report_ranking as select *{absent} from ranking_{name}")
    psi_from = "report_ranking" if "psi_preferred" in columns else "pair_scores"
    connection.execute(f"create {kind} pair_psi as select pair_id, psi_preferred, psi_rejected from {psi_from}")
    found = connection.execute("select max(rank) filter (where selected) from report_ranking").fetchall()
    return Ranking(connection, settings, summary["scorers"], found[0][0] or 0)


def pair_rows(ranking: Ranking, order: str, offset: int, limit: int, words: str = "") -> Rows:
    """Rows of gallery.sql: `limit` pairs from `offset` on; order: best, worst, cut, SCORER_agreed, SCORER_disputed."""
    query = query_text("gallery", scorer=ranking.scorers)
    params = {"filter": words, "order": order, "cut": ranking.cut, "limit": limit, "offset": offset}
    return query_rows(ranking.connection, query, **params)


def orders(scorers: list[str]) -> dict[str, str]:
    """Word of gallery.sql -> what a reader calls it."""
    named = {"best": "best first", "worst": "worst first", "cut": "nearest the cut"}
    for scorer in scorers:
        named[f"{scorer}_disputed"] = f"{scorer} most against the human"
        named[f"{scorer}_agreed"] = f"{scorer} most with the human"
    return named


def section_ranks(pairs: int, cut: int, wanted: int) -> dict[str, range]:
    """Ranks of the top, the borderline and the bottom, at most `wanted` in all; they never overlap.

    The borderline lies half above and half below the cut. Where few are selected the top gives way to it; where
    all are, there is none.
    """
    wanted = min(wanted, pairs)
    each = wanted // 3
    top = range(1, 1 + min(wanted - 2 * each, max(cut - each // 2, (cut + 1) // 2)))
    start = max(top.stop, cut - each // 2 + 1) if cut < pairs else top.stop
    borderline = range(start, min(start + each, pairs + 1) if cut < pairs else start)
    rest = wanted - len(top) - len(borderline)
    return {"top": top, "borderline": borderline, "bottom": range(max(borderline.stop, pairs - rest + 1), pairs + 1)}


def card(row: dict[str, Any], ranking: Ranking) -> dict[str, Any]:
    """What the template shows of one row of gallery.sql."""
    return {
        "rank": row["rank"],
        "pair_id": row["pair_id"],
        "prompt": row["prompt"] if row["prompt"] is not None else "(the run has no such prompt)",
        "quality": row["quality"],
        "percentile": row["percentile"],
        "selected": row["selected"],
        "passed_over": row["passed_over"],
        "standing": standing(row),
        "workings": workings(ranking.settings.get("metric_sql", ""), row),
        "psi": [row[f"psi_{side}"] for side in SIDES],
        "uids": [row[f"{side}_uid"] for side in SIDES],
        "scores": [
            {
                "scorer": scorer,
                "preferred": row[f"{scorer}_preferred"],
                "rejected": row[f"{scorer}_rejected"],
                "margin": row[f"{scorer}_margin"],
                "verdict": _verdict(row[f"{scorer}_margin"]),
            }
            for scorer in ranking.scorers
        ],
    }


def standing(row: dict[str, Any]) -> str:
    """Selected or not, and why."""
    if row["selected"]:
        return "selected"
    if row["passed_over"]:
        return f"passed over: {row['passed_over'].replace('_', ' ')}"
    return "below the cut"


def _verdict(margin: float | None) -> str:
    if margin is None:
        return "unknown"
    return "agrees" if margin > 0 else "disagrees" if margin < 0 else "tie"


def metric_purpose(sql: str) -> str:
    """The `-- Purpose:` of a metric's header, its continued lines joined; '' when it has none."""
    found = re.search(r"^-- Purpose:[ ]*(.*(?:\n--[ ]{3,}.*)*)", sql, re.MULTILINE)
    return " ".join(line.lstrip("- ").strip() for line in found[1].split("\n")) if found else ""


def workings(sql: str, row: dict[str, Any]) -> str | None:
    """A metric's expression with the pair's own numbers in it; None when it is more than an expression of them."""
    found = re.search(r"select\s+pair_id,\s+([^;]+?)\s+as\s+quality\s+from\s+pair_scores\b", sql, re.IGNORECASE)
    if found is None or re.search(r"\b(select|over|case)\b|\$", found[1], re.IGNORECASE):
        return None
    names = set(re.findall(r"\b[a-z]\w*\b(?!\s*\()", found[1]))
    if not names or any(not isinstance(row.get(name), float) for name in names):
        return None
    text = re.sub(r"\b[a-z]\w*\b(?!\s*\()", lambda name: f"{row[name[0]]:.4g}", found[1])
    return " ".join(text.replace("*", "×").replace(" - ", " − ").split())


def count_steps(summary: dict[str, Any], settings: dict[str, Any]) -> Rows:
    """Source rows -> pairs -> ranked -> selected, each with the parts that add up to its total.

    Each: name, total, kept (the part that goes on), parts (name -> pairs), sum (as a line), reasons (name -> meaning).
    """
    passed_over = settings.get("passed_over", {})
    base, selected = settings["base_pairs"], settings["selected_pairs"]
    below = base - selected - sum(passed_over.values())
    return [
        _step("source rows", summary["source_rows"], "pairs", summary["pairs"], summary["dropped_pairs"]),
        _step("pairs", summary["pairs"], "ranked", base, settings["dropped_pairs"]),
        _step("ranked", base, "selected", selected, passed_over | ({"below the cut": below} if below else {})),
    ]


def _step(name: str, total: int, kept: str, kept_pairs: int, left_out: dict[str, int]) -> dict[str, Any]:
    parts = {kept: kept_pairs, **left_out}
    line = " + ".join(f"{pairs:,} {part}" for part, pairs in parts.items())
    reasons = {part: REASONS[part] for part in left_out if part in REASONS}
    return {
        "name": name, "total": total, "kept": kept, "parts": parts, "sum": f"{total:,} {name} = {line}",
        "reasons": reasons,
    }  # fmt: skip
