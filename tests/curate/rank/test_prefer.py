"""A preference by rule: hand-worked, and against the plain meaning of each rule over random scores."""

import json
import random
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from curate.errors import UsageError
from curate.rank.filters import Filters
from curate.rank.prefer import lead
from curate.rank.psi import Psi
from curate.rank.rankings import open_views
from curate.storage.run import Run
from tests.curate.builders import Outcome
from tests.curate.runs import BLEND, HAND_PAIRS, HAND_SCORES, make_run, ranked, ranking_rows

PSI_OF = {"a": 1 / 6, "b": 1 / 6, "c": 5 / 6, "d": 5 / 6}
"""Percentiles among a, b, c, d: clip 0, 1/3, 2/3, 1; pickscore 1/3, 0, 1, 2/3."""


Curate = Callable[..., Outcome]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path / "run", HAND_PAIRS, HAND_SCORES)


@pytest.mark.parametrize(
    ("rule", "sides", "undecided", "judged", "turned", "chosen_by"),
    [
        # clip: b > a against the human; c > b, too: the human took b; c > a, where the human took neither; d > a.
        ("clip", {"pair-0": "ba", "pair-1": "cb", "pair-2": "ca", "pair-3": "da"}, 0, 3, 2, ["clip"]),
        # pickscore: a > b.
        ("pickscore", {"pair-0": "ab", "pair-1": "cb", "pair-2": "ca", "pair-3": "da"}, 0, 3, 1, ["clip", "pickscore"]),
        # a and b: one scorer each way, and equal psi.
        ("vote", {"pair-1": "cb", "pair-2": "ca", "pair-3": "da"}, 1, 2, 1, ["clip", "pickscore"]),
        ("consensus", {"pair-1": "cb", "pair-2": "ca", "pair-3": "da"}, 1, 2, 1, ["clip", "pickscore"]),
        ("psi", {"pair-1": "cb", "pair-2": "ca", "pair-3": "da"}, 1, 2, 1, ["clip", "pickscore"]),
    ],
)
def test_rules_by_hand(
    run: Run, rule: str, sides: dict[str, str], undecided: int, judged: int, turned: int, chosen_by: list[str]
) -> None:
    report = ranked(run, metric="margin", prefer=rule, psi=BLEND if rule != "clip" else Psi({"clip": 1.0}))
    rows = ranking_rows(run)
    assert {row["pair_id"]: row["preferred_uid"] + row["rejected_uid"] for row in rows} == sides
    assert report["dropped_pairs"] == ({"undecided": undecided} if undecided else {})
    assert (report["prefer"], report["judged_pairs"], report["turned_pairs"]) == (rule, judged, turned)
    assert report["chosen_by"] == chosen_by
    if rule != "clip":
        expected = {row["pair_id"]: PSI_OF[row["preferred_uid"]] - PSI_OF[row["rejected_uid"]] for row in rows}
        assert {row["pair_id"]: row["quality"] for row in rows} == pytest.approx(expected)


def test_the_humans_label_stays_beside_the_rules(run: Run) -> None:
    ranked(run, metric="winner", prefer="clip", filters=Filters(where="turned"))
    assert {row["pair_id"] for row in ranking_rows(run)} == {"pair-0", "pair-1"}
    views = open_views(run)  # the views of curation.duckdb say the same as the tables that were ranked by
    facts = views.sql("select pair_id, preferred_uid, turned from pair_facts order by pair_id").fetchall()
    assert facts == [("pair-0", "b", True), ("pair-1", "c", True), ("pair-2", "c", None), ("pair-3", "d", False)]
    assert views.sql("select preference from pairs order by pair_id").fetchall() == [(0,), (1,), (None,), (0,)]


def test_rules_mean_what_they_say_and_do_not_depend_on_the_sides_shown(tmp_path: Path) -> None:
    chance = random.Random(3)
    scores = {f"i{n}": (float(chance.randint(0, 3)), float(chance.randint(0, 3)), chance.random()) for n in range(40)}
    pairs = [(f"i{n}", f"i{n + 1}", chance.choice([0, 1, None])) for n in range(0, 40, 2)]
    scorers = ("clip", "pickscore", "aesthetic")
    psi = Psi(dict.fromkeys(scorers, 1.0))
    shown = make_run(tmp_path / "shown", pairs, scores, scorers)
    swapped = make_run(tmp_path / "swapped", [(b, a, None) for a, b, _ in pairs], scores, scorers)
    swapped.mark_finished(swapped.summary() | {"judged": False})  # nobody need have judged them
    for rule in ("vote", "consensus", "psi", "aesthetic"):
        ranked(shown, psi=psi, prefer=rule)
        assert ranked(swapped, psi=psi, prefer=rule)["judged_pairs"] == 0
        assert pl.DataFrame(ranking_rows(shown)).equals(pl.DataFrame(ranking_rows(swapped)))
        found = {row["pair_id"]: row["preferred_uid"] for row in ranking_rows(shown)}
        for n, (a, b, _) in enumerate(pairs):
            ahead = [(x > y) - (x < y) for x, y in zip(scores[a], scores[b], strict=True)]
            taken = {"vote": sum(ahead), "consensus": sum(ahead) if abs(sum(ahead)) == 3 else 0, "aesthetic": ahead[2]}
            if rule in taken:
                expected = a if taken[rule] > 0 else b if taken[rule] < 0 else None
                assert found.get(f"pair-{n}") == expected, (rule, ahead)


def test_a_score_that_is_missing_has_no_vote_and_breaks_a_consensus(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [("a", "b", 0)], {"a": (0.1, None), "b": (0.2, 3.0)})
    only = Psi({"clip": 1.0})
    assert ranked(run, psi=only, prefer="vote")["turned_pairs"] == 1
    for rule in ("consensus", "pickscore"):
        with pytest.raises(UsageError, match="which set aside: undecided 1"):
            ranked(run, psi=only, prefer=rule)


def test_what_asks_people_is_refused_under_a_rule(run: Run) -> None:
    for changes in (
        {"metric": "calibrated"},
        {"filters": Filters(min_annotator_agreement=0.5)},
        {"filters": Filters(where="pair_id in (select pair_id from calibrated where log_odds > 0)")},
    ):
        with pytest.raises(UsageError, match="and --prefer vote asks nobody; leave one of them out"):
            ranked(run, prefer="vote", **changes)
    with pytest.raises(UsageError, match="--prefer: there is no rule and no scorer 'pikscore'"):
        ranked(run, prefer="pikscore")


def test_a_flag_of_what_is_not_safe_has_no_vote() -> None:
    assert "nsfw" not in str(lead("vote", ["clip", "nsfw"]))


def test_shards_card_and_page_say_by_rule(curate: Curate, ranked_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(ranked_run, tmp_path / "run")
    done = curate("rank", "--run", run, "--prefer", "clip", "--name", "ruled", "--psi", "clip")
    assert "preferred by rule clip, not by a human; " in done.out
    curate("export-shards", "--run", run, "--name", "ruled", "--output", run / "shards")
    assert json.loads((run / "shards" / "shards.json").read_text())["ranking"]["prefer"] == "clip"
    card = (run / "shards" / "README.md").read_text()
    assert "that the rule `clip` judged, no person" in card
    assert "| preferred by | rule clip |" in card
    with tarfile.open(next((run / "shards").glob("*.tar"))) as tar:
        meta = json.load(tar.extractfile(next(one for one in tar if one.name.endswith(".json"))))  # type: ignore[arg-type]
    assert meta["scores"]["clip"]["preferred"] > meta["scores"]["clip"]["rejected"]
    assert meta["source"]["annotator_id"] is None
    assert "strength" not in meta
    curate("report", "--run", run, "--name", "ruled", "--gallery", "6")
    page = (run / "report-ruled.html").read_text()
    assert "the rule clip’s choice" in page
    assert "rule clip, not by people" in page
    assert not re.search(r"the human (?!judged)|the human’s|the human's", page)
