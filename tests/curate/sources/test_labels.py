"""What a source says of a pair, as one label and its strength."""

from typing import Any

import polars as pl
import pytest

from curate.sources.labels import with_labels
from curate.sources.manifest import LabelRules


def judged(rules: LabelRules | None = None, always_0: bool = False, **columns: list[object]) -> list[tuple[Any, Any]]:
    rows = with_labels(pl.DataFrame(columns, strict=False), rules or LabelRules(), always_0)
    assert not {"votes_0", "votes", "share_0", "label_1"} & set(rows.columns)
    return rows.select("label_0", "strength").rows()


def labels(rules: LabelRules | None = None, **columns: Any) -> list[object]:
    return [label for label, _ in judged(rules, **columns)]


def test_a_preferred_side_needs_no_label() -> None:
    assert judged(always_0=True, prompt=["a", "b"]) == [(1.0, None), (1.0, None)]


def test_numbers_and_numbers_as_text() -> None:
    assert labels(label_0=[1.0, 0.0, 0.5, 2.0, None]) == [1.0, 0.0, 0.5, None, None]
    assert labels(label_0=["1.0", " 0", "0.5\n", "left", None]) == [1.0, 0.0, 0.5, None, None]
    assert labels(label_0=[True, False]) == [1.0, 0.0]


def test_both_labels_must_agree() -> None:
    assert labels(label_0=[1.0, 1.0, 0.5], label_1=[0.0, 1.0, 0.5]) == [1.0, None, 0.5]


def test_minus_one_is_what_the_manifest_says() -> None:
    rules = LabelRules({"1": 1.0, "-1": 0.0, "0": 0.5})
    assert labels(rules, label_0=[1, -1, 0, 7]) == [1.0, 0.0, 0.5, None]
    assert labels(rules, label_0=[1.0, -1.0, 0.0]) == [1.0, 0.0, 0.5]
    assert labels(rules, label_0=["1", "-1.0"]) == [1.0, 0.0]


def test_words() -> None:
    rules = LabelRules({"image_1": 1.0, "image_2": 0.0, "both": 0.5})
    assert labels(rules, label_0=["image_2", "image_1", "both", "neither"]) == [0.0, 1.0, 0.5, None]


@pytest.mark.parametrize(("by", "what"), [("models", "model"), ("uids", "uid")])
def test_the_preferred_images_name(by: str, what: str) -> None:
    sides: dict[str, Any] = {f"image_0_{what}": ["a", "a", "a", "x"], f"image_1_{what}": ["b", "b", "b", "x"]}
    assert labels(LabelRules(by=by), label_0=["a", "b", "c", "x"], **sides) == [1.0, 0.0, None, None]


def test_votes_by_hand() -> None:
    assert judged(votes_0=[3, 1, 2, 0, -1, None], votes_1=[1, 3, 2, 0, 2, 1]) == [
        *((1.0, 0.75), (0.0, 0.75), (0.5, 0.5)),  # 3 of 4, 3 of 4, 2 of 4
        *((None, None), (None, None), (None, None)),  # nobody voted, less than nobody, one side unknown
    ]


def test_the_label_counts_where_nobody_voted() -> None:
    found = judged(label_0=[1, 1, 0], votes_0=[1, None, 0], votes_1=[3, None, 0])
    assert found == [(0.0, 0.75), (1.0, None), (0.0, None)]


def test_a_least_margin_and_a_least_share_make_ties_and_leave_the_strength() -> None:
    votes: dict[str, Any] = {"votes_0": [6, 5, 10], "votes_1": [4, 5, 0]}
    assert judged(LabelRules(least_margin=3), **votes) == [(0.5, 0.6), (0.5, 0.5), (1.0, 1.0)]
    assert judged(LabelRules(least_share=0.7), **votes) == [(0.5, 0.6), (0.5, 0.5), (1.0, 1.0)]
    assert judged(LabelRules(least_share=0.6), **votes)[0] == (1.0, 0.6)


def test_a_share() -> None:
    assert judged(share_0=[0.8, 0.25, 0.5, 1.2, float("nan")]) == [
        *((1.0, 0.8), (0.0, 0.75), (0.5, 0.5)),
        *((None, None), (None, None)),
    ]


def test_lists_of_votes_and_their_json_text() -> None:
    words = LabelRules({"image_1": 1.0, "image_2": 0.0, "tie": 0.5})
    expected = [(1.0, 0.75), (None, None), (None, None), (None, None)]
    assert judged(words, votes=[["image_1", "image_1", "image_1", "image_2"], ["?"], [], None]) == expected
    texts: list[object] = ['["image_1", "image_1", "tie", "tie"]', '["image_1"', "3", None]
    assert judged(words, votes=texts) == expected
    assert judged(words, votes=['{"image_1": 1, "image_2": 3}']) == [(0.0, 0.75)]
    assert judged(votes=[[1, 0, 1, 1]]) == [(1.0, 0.75)]


def test_swapping_the_sides_swaps_the_label_and_keeps_the_strength() -> None:
    one: list[object] = [3.0, 0.2, 5.0, 1.0]
    two: list[object] = [1.0, 0.9, 5.0, 0.0]
    for (label, strength), (other, same) in zip(
        judged(votes_0=one, votes_1=two), judged(votes_0=two, votes_1=one), strict=True
    ):
        assert strength == same
        assert label + other == 1.0


def test_a_set_without_labels_has_neither() -> None:
    assert judged(prompt=["a"]) == [(None, None)]


def test_what_cannot_be_read_is_stated() -> None:
    rows = pl.DataFrame({"votes_0": [1.0, -1.0, None], "votes_1": [0.0, 2.0, 1.0]})
    stated = with_labels(rows, LabelRules(), always_0=False)["stated"].to_list()
    assert stated == [None, "votes_0 -1.0, votes_1 2.0", "votes_0 null, votes_1 1.0"]
