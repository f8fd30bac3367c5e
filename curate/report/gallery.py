"""The pairs that a report shows: which, in what words, from which rows of the ranking."""

import math
import re
from dataclasses import dataclass
from typing import Any

import duckdb

from curate.database.connection import Rows, connect_views, create_view, query_rows, seal
from curate.database.queries import query_text
from curate.rank.filters import evaluate_where
from curate.rank.metrics.calibration import Calibration, calibrate
from curate.rank.metrics.metric import judging
from curate.rank.prefer import HUMAN, preferred_by
from curate.rank.psi import Psi, create_psi_tables
from curate.rank.rankings import ranking_settings
from curate.storage.run import Run
from curate.terminal.text import sum_line
from schemas.reasons import PASSED_OVER, REASONS

SIDES = ("preferred", "rejected")
MEANINGS = REASONS | PASSED_OVER


@dataclass(frozen=True)
class Ranking:
    """A ranking opened for reading: report_ranking, ranked_facts, ranked_psi, prompts, images, tags; its settings."""

    connection: duckdb.DuckDBPyConnection
    settings: dict[str, Any]
    scorers: list[str]
    calibration: Calibration
    cut: int  # rank of the last selected pair

    @property
    def preferred_by(self) -> str:
        """Whose preference it is: `the human`, or `the rule vote`."""
        return preferred_by(self.settings.get("prefer", HUMAN))

    @property
    def chosen_by(self) -> list[str]:
        """Scorers that had a say in which pairs are selected; in a ranking that does not state it, those of psi."""
        return list(self.settings.get("chosen_by", self.settings["psi"]))

    @property
    def pairs(self) -> int:
        """How many are ranked."""
        return int(self.settings["base_pairs"])


def open_ranking(run: Run, name: str) -> Ranking:
    """Open one ranking under its own psi, whichever was written last. Raises RunError.

    The scores of pairs are joined once and kept, as `curate rank` does: every figure and page reads them.
    """
    settings, scorers = ranking_settings(run, name), run.summary()["scorers"]
    connection = connect_views(run)
    seal(connection, run)
    psi = Psi(settings["psi"], settings["psi_norm"])
    create_psi_tables(connection, scorers, psi, "table", settings.get("prefer", HUMAN))
    columns = connection.sql(f"from ranking_{name} limit 0").columns
    absent = "" if "passed_over" in columns else ", null::varchar as passed_over"
    connection.execute(f"create view report_ranking as select *{absent} from ranking_{name}")
    create_view(connection, "ranked_facts", query_text("report/ranked_facts"))
    connection.execute(f"create table ranked_psi as\n{query_text('report/ranked_psi')}")
    found = connection.execute("select max(rank) filter (where selected) from report_ranking").fetchall()
    return Ranking(connection, settings, scorers, calibrate(connection, judging(scorers) or scorers), found[0][0] or 0)


def pair_rows(
    ranking: Ranking, order: str, offset: int, limit: int, words: str = "", condition: str = ""
) -> tuple[Rows, int]:
    """Rows of gallery.sql, `limit` pairs from `offset` on, and how many pairs fit.

    order: best, worst, cut, SCORER_agreed, SCORER_disputed. words: of the prompt, or how a pair's id begins.
    condition: SQL over `pair_facts` and the ranking's own columns. Raises: QueryError.
    """
    connection = ranking.connection
    if condition:
        evaluate_where(connection, condition, "ranked_facts", "report_ranking")
    else:
        connection.execute("create or replace temp table where_result (pair_id varchar, kept boolean)")
    fit: dict[str, Any] = {"filter": words, "asked": bool(condition)}
    page = fit | {"order": order, "cut": ranking.cut, "limit": limit, "offset": offset}
    rows = query_rows(connection, query_text("report/gallery", scorer=ranking.scorers), **page)
    return rows, int(query_rows(connection, query_text("report/gallery_count"), **fit)[0]["pairs"])


def orders(scorers: list[str], preferred_by: str = "the human") -> dict[str, str]:
    """Word of gallery.sql -> what a reader calls it."""
    named = {"best": "best first", "worst": "worst first", "cut": "nearest the cut"}
    for scorer in scorers:
        named[f"{scorer}_disputed"] = f"{scorer} most against {preferred_by}"
        named[f"{scorer}_agreed"] = f"{scorer} most with {preferred_by}"
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
    bottom = range(max(borderline.stop, pairs - rest + 1), pairs + 1)
    top = range(1, min(top.stop + rest - len(bottom), borderline.start))  # where the bottom meets the borderline
    return {"top": top, "borderline": borderline, "bottom": bottom}


def card(row: dict[str, Any], ranking: Ranking) -> dict[str, Any]:
    """What the template shows of one row of gallery.sql."""
    return {
        "rank": row["rank"],
        "preferred_by": ranking.preferred_by,
        "pair_id": row["pair_id"],
        "tags": row.get("tags", []),
        "there": row.get("there", ""),
        "section": row.get("section", ""),
        "prompt": row["prompt"] if row["prompt"] is not None else "(the run has no such prompt)",
        "quality": row["quality"],
        "percentile": row["percentile"],
        "state": "selected" if row["selected"] else "passed_over" if row["passed_over"] else "below",
        "standing": standing(row),
        "reason": PASSED_OVER.get(row["passed_over"]),
        "workings": workings(ranking.settings["metric_sql"], ranking.settings.get("params", {}), row),
        "psi": [row[f"psi_{side}"] for side in SIDES],
        "probability": probability(row, ranking.calibration.weights),
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
    """Selected or not, in a few words."""
    if row["selected"]:
        return "selected"
    return f"passed over: {_words(row['passed_over'])}" if row["passed_over"] else "below the cut"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _verdict(margin: float | None) -> str:
    if margin is None:
        return "no score"
    return "agrees" if margin > 0 else "disagrees" if margin < 0 else "tie"


def probability(row: dict[str, Any], weights: dict[str, float]) -> float | None:
    """How likely all scorers together find the preferred picture; None where one of them has no margin."""
    margins = [row[f"{scorer}_margin"] for scorer in weights]
    if None in margins:
        return None
    log_odds = sum(weight * margin for weight, margin in zip(weights.values(), margins, strict=True))
    return 1 / (1 + math.exp(-min(max(log_odds, -700.0), 700.0)))  # beyond, exp overflows


def metric_purpose(sql: str) -> str:
    """The `-- Purpose:` of a metric's header without its full stop; '' when it has none."""
    found = re.search(r"^-- Purpose: +(.+?)\.?$", sql, re.MULTILINE)
    return found[1] if found else ""


def workings(sql: str, params: dict[str, Any], row: dict[str, Any]) -> str | None:
    """A metric's expression with the pair's own numbers in it; None when it is more than an expression of them."""
    found = re.search(r"^select\s+pair_id,\s+([^;]+?)\s+as\s+quality\s+from\s+pair_scores\b", sql, re.I | re.M)
    if found is None or re.fullmatch(r"\w+", found[1]) or re.search(r"--|\b(select|over|case)\b", found[1], re.I):
        return None
    numbers = {f"${name}": value for name, value in params.items()} | row
    names = re.compile(r"\$?\b[a-z_]\w*\b(?!\s*\()")  # words, but not those of functions
    if not all(isinstance(numbers.get(name), int | float) for name in names.findall(found[1])):
        return None
    text = names.sub(lambda name: f"{numbers[name[0]]:.4g}", found[1])
    return " ".join(text.replace("*", "×").replace(" - ", " − ").split())


def count_steps(summary: dict[str, Any], settings: dict[str, Any]) -> Rows:
    """Source rows -> pairs -> ranked -> selected, each with the parts that add up to its total.

    Each: name, total, kept (the part that goes on), parts (name -> pairs), sum (as a line), reasons (name -> meaning).
    """
    passed_over = settings.get("passed_over", {})
    base, selected = settings["base_pairs"], settings["selected_pairs"]
    below = base - selected - sum(passed_over.values())
    rest = passed_over | ({"below_the_cut": below} if below else {})
    return [
        _step("rows", summary["source_rows"], "pairs", summary["pairs"], summary["dropped_pairs"]),
        _step("pairs", summary["pairs"], "ranked", base, settings["dropped_pairs"]),
        _step("ranked", base, "selected", selected, rest),
    ]


def _step(name: str, total: int, kept: str, kept_pairs: int, left_out: dict[str, int]) -> dict[str, Any]:
    return {
        "name": name,
        "total": total,
        "kept": kept,
        "parts": {kept: kept_pairs} | {_words(part): pairs for part, pairs in left_out.items()},
        "sum": f"{name:<8}{sum_line(total, kept_pairs, kept, left_out)}",
        "reasons": {_words(part): MEANINGS[part] for part in left_out if part in MEANINGS},
    }
