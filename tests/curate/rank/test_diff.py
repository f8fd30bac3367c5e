"""Two rankings beside each other: counts by hand, Spearman beside scipy's, the pairs that moved."""

from collections.abc import Callable
from pathlib import Path

import pytest
from scipy.stats import spearmanr

from curate.errors import RunError
from curate.rank.diff import diff
from curate.rank.filters import Filters
from curate.storage.tables import write_table
from schemas import tables
from tests.curate.builders import Outcome
from tests.curate.rank.selection.test_selection import world
from tests.curate.runs import HAND_PAIRS, HAND_SCORES, make_run, ranked, ranking_rows

Curate = Callable[..., Outcome]


def test_counts_and_correlation(tmp_path: Path) -> None:
    run = world(tmp_path / "run", 0)
    ranked(run, "one", "qsd", top="10")
    ranked(run, "two", "winner", top="12", filters=Filters(where="clip_preferred > 0.3"))
    one, two = ({row["pair_id"]: row for row in ranking_rows(run, name)} for name in ("one", "two"))
    found = diff(run, "one", "two", 5)
    both = sorted(set(one) & set(two))
    chosen = [{pair for pair, row in rows.items() if row["selected"]} for rows in (one, two)]
    assert (found["ranked_one"], found["ranked_two"], found["ranked_both"]) == (len(one), len(two), len(both))
    assert (found["selected_one"], found["selected_two"]) == (10, 12)
    assert found["selected_both"] == len(chosen[0] & chosen[1])
    assert found["overlap"] == pytest.approx(len(chosen[0] & chosen[1]) / len(chosen[0] | chosen[1]))
    expected = spearmanr([one[pair]["rank"] for pair in both], [two[pair]["rank"] for pair in both]).statistic
    assert found["rank_correlation"] == pytest.approx(expected)
    moves = {pair: abs(one[pair]["percentile"] - two[pair]["percentile"]) for pair in both}
    expected_order = sorted(both, key=lambda pair: (-moves[pair], pair))[:5]
    assert [item["pair_id"] for item in found["moved"]] == expected_order


def test_a_ranking_equals_itself(tmp_path: Path, curate: Curate) -> None:
    run = world(tmp_path / "run", 1)
    ranked(run, "one")
    found = diff(run, "one", "one", 0)
    assert (found["overlap"], found["rank_correlation"], found["moved"]) == (1, pytest.approx(1), [])
    done = curate("diff", "one", "one", "--run", run.root)
    assert (done.code, done.err) == (0, "")
    assert "100.0 % of what either selects" in done.out


def test_a_prompt_stays_on_its_line(tmp_path: Path, curate: Curate) -> None:
    run = make_run(tmp_path / "run", [("a", "b", 0)], HAND_SCORES, prompts=["\x1b[2J\n\ttwo  lines\x07"])
    ranked(run)
    shown = curate("diff", "default", "default", "--run", run.root).out.splitlines()
    assert shown[-1].endswith("  prompt [2J two lines ")
    assert len(shown) == 4
    write_table(tables.PROMPTS.empty_table(), run.table("prompts") / "p.parquet", tables.PROMPTS)
    assert curate("diff", "default", "default", "--run", run.root).out.endswith("  -\n")


def test_one_pair_in_common_has_no_correlation(tmp_path: Path, curate: Curate) -> None:
    run = make_run(tmp_path / "run", HAND_PAIRS, HAND_SCORES)
    ranked(run, "one")
    ranked(run, "two", filters=Filters(where="clip_margin > 0"))
    assert diff(run, "one", "two", 1)["rank_correlation"] is None
    assert "rank correlation none" in curate("diff", "one", "two", "--run", run.root).out


def test_a_missing_ranking_is_named_with_those_there_are(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", HAND_PAIRS, HAND_SCORES)
    ranked(run, "one")
    with pytest.raises(RunError, match=r"no ranking 'two' in .*; there are one"):
        diff(run, "one", "two", 1)
