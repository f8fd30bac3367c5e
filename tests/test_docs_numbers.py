"""Figures that pages quote, beside the benchmarks' last JSON lines and beside the report of the experiments."""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.demo import ROOT

DOCS = ROOT / "docs"
MEASURED = (DOCS / "measured.md").read_text(encoding="utf-8")
LINES = [json.loads(line) for line in (DOCS / "measured.jsonl").read_text(encoding="utf-8").splitlines()]
SELECTED, ROWS = 45_374, 851_293  # pairs of the best 5.33 %, and pairs of Pick-a-Pic v2 that are no ties


def preprocess(line: dict[str, Any]) -> Iterator[str]:
    """Rows of the table, a cell for each size."""
    for what, label in (
        ("clip,pickscore,aesthetic", "clip, pickscore, aesthetic: each"),
        ("… and hpsv2", "with hpsv2"),
    ):
        rows = [row for row in line["rows"] if row["what"] == what]
        assert [row["px"] for row in rows] == [512, 768, 1024]
        apart = " | ".join(f"{row['apart']:.0f}" for row in rows)
        shared = (f"{row['shared']:.0f}: × {row['ratio']:.2f} ({row['ratio_slowest']:.2f})" for row in rows)
        yield rf"\| {label}[^|]* \| {re.escape(apart)} \|\n\|[^|]* \| {re.escape(' | '.join(shared))} \|"
    ratios = [row["ratio"] for row in line["rows"] if row["what"] == "decode"]
    yield rf"{min(ratios):.2f} to {max(ratios):.2f} times as fast"


QUOTED: dict[str, Callable[[dict[str, Any]], Iterator[str]]] = {"preprocess": preprocess}


@pytest.mark.parametrize("line", LINES, ids=lambda line: line["benchmark"])
def test_a_page_quotes_the_last_line_of_a_benchmark(line: dict[str, Any]) -> None:
    assert f"`{line['command']}`" in MEASURED
    for pattern in QUOTED.get(line["benchmark"], lambda _: iter(()))(line):
        assert re.search(pattern, MEASURED), pattern


@pytest.mark.parametrize("name", ["method.md", "ranking.md"])
def test_gains_of_the_truth_are_those_of_the_report(name: str) -> None:
    report = (DOCS / "reproduction.md").read_text(encoding="utf-8")
    text = (DOCS / name).read_text(encoding="utf-8")
    found = re.findall(r"[+-]0\.\d\d(?: \([+-]0\.\d\d to [+-]0\.\d\d\))?", text)
    assert [one for one in found if one.replace(" to ", " .. ") not in report] == []
    assert len(found) > 10 or name != "method.md"


def test_epochs_and_pairs_are_worked_out_rightly() -> None:
    assert int(0.0533 * ROWS + 0.5) == SELECTED
    assert (round(2048 * 2000 / SELECTED), round(2048 * 2000 / ROWS, 1)) == (90, 4.8)
    assert 5 * SELECTED // 2048 == 110
    assert round(7000 * 32 / SELECTED) == 5
