"""The log of judgements: nothing acknowledged is lost; order, sides and agreement by hand."""

import errno
import json
import os
from pathlib import Path

import pytest

from curate.errors import RunError, UsageError, WriteError
from curate.review.judgements import (
    FORMAT,
    Judgement,
    Log,
    agreement,
    check_reviewer,
    left_side,
    read_log,
    shown_order,
)

IDS = [f"pair-{i}" for i in range(40)]


def judgement(pair_id: str, choice: str = "left", left: int = 0) -> Judgement:
    return Judgement(pair_id, 0, left, choice, 1.5)


def test_order_and_sides_follow_from_the_seed_alone() -> None:
    assert shown_order(IDS, 0) == shown_order(IDS[::-1], 0) != shown_order(IDS, 1)
    sides = [left_side(0, "anna", one) for one in IDS]
    assert sides != [left_side(0, "ben", one) for one in IDS]
    assert 10 < sum(sides) < 30
    assert shown_order([*IDS, "more"], 0) != IDS


@pytest.mark.parametrize(
    ("choice", "left", "preferred"),
    [("left", 0, 0), ("left", 1, 1), ("right", 0, 1), ("right", 1, 0), ("tie", 1, None), ("both_bad", 0, None)],
)
def test_what_was_preferred(choice: str, left: int, preferred: int | None) -> None:
    assert judgement("x", choice, left).preferred_side == preferred


def test_a_log_goes_on_where_it_ended(tmp_path: Path) -> None:
    path = tmp_path / "log" / "anna.jsonl"
    log = Log(path, "anna", 0)
    log.judge(judgement("a"))
    log.judge(judgement("b", "tie"))
    log.undo()
    log.judge(judgement("c", "right"))
    log.close()
    again = Log(path, "anna", 0)
    assert [one.pair_id for one in again.judged] == ["a", "c"]
    again.undo()
    again.undo()
    again.undo()  # nothing is left to undo
    again.close()
    assert read_log(path) == ({"format": FORMAT, "reviewer": "anna", "seed": 0}, [])
    assert len(path.read_text().splitlines()) == 7


def test_a_judgement_that_the_disk_refuses_does_not_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "anna.jsonl"
    log = Log(path, "anna", 0)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(WriteError, match="No space left on device"):
            log.judge(judgement("a"))
    log.judge(judgement("a", "right"))
    log.close()
    assert [(one.pair_id, one.choice) for one in read_log(path)[1]] == [("a", "right")]


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_line_that_was_cut_off_goes_and_the_others_stay(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "anna.jsonl"
    log = Log(path, "anna", 0)
    log.judge(judgement("a"))
    log.judge(judgement("b"))
    log.close()
    path.write_bytes(path.read_bytes()[:-cut])
    again = Log(path, "anna", 0)
    assert [one.pair_id for one in again.judged] == ["a"]
    again.judge(judgement("c"))
    again.close()
    assert [one.pair_id for one in read_log(path)[1]] == ["a", "c"]


def test_another_seed_a_second_process_and_a_damaged_log_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "anna.jsonl"
    log = Log(path, "anna", 0)
    with pytest.raises(RunError, match="anna is reviewing in another process"):
        Log(path, "anna", 0)
    log.close()
    with pytest.raises(RunError, match=r"was begun with --seed 0; go on with that, or take another --reviewer"):
        Log(path, "anna", 1)
    for line in ('{"undo": "x"}', "[1]", '{"pair_id": "a"}', "{"):
        path.write_text(json.dumps({"format": FORMAT, "reviewer": "anna", "seed": 0}) + f"\n{line}\n")
        with pytest.raises(RunError, match="is damaged"):
            read_log(path)
    path.write_text('{"format": "other"}\n')
    with pytest.raises(RunError, match="its format is other"):
        read_log(path)


@pytest.mark.parametrize("name", ["", "..", "a/b", "-x", "a b", "x" * 65])
def test_a_name_that_is_no_file(name: str) -> None:
    with pytest.raises(UsageError, match=r"letters, digits, '_', '.' and '-' only"):
        check_reviewer(name)
    assert check_reviewer("anna.b-2") == "anna.b-2"


def test_agreement_by_hand() -> None:
    """Alike on 3 of 4; chance 0.5 · 0.25 + 0.5 · 0.5 + 0 · 0.25 = 0.375, so kappa = (0.75 - 0.375) / 0.625 = 0.6."""
    anna = [judgement("a"), judgement("b"), judgement("c", "right"), judgement("d", "right"), judgement("only")]
    ben = [judgement("a"), judgement("b", "tie"), judgement("c", "left", 1), judgement("d", "right")]
    ben[2] = judgement("c", "left", 1)  # his left was her right
    (found,) = agreement({"anna": anna, "ben": ben})
    assert (found["reviewers"], found["pairs"], found["alike"]) == (["anna", "ben"], 4, 0.75)
    assert found["kappa"] == pytest.approx(0.6)
    (same,) = agreement({"anna": anna[:2], "ben": anna[:2]})
    assert (same["alike"], same["kappa"]) == (1.0, None)
    (apart,) = agreement({"anna": anna[:1], "ben": anna[1:2]})
    assert apart == {"reviewers": ["anna", "ben"], "pairs": 0, "alike": None, "kappa": None}
