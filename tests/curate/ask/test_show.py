"""`curate show`: a pair or an image by its id, in words and as a picture."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from curate.terminal.pictures import beside, draw
from tests.curate.builders import Outcome
from tests.curate.runs import BLEND, HAND_PAIRS, HAND_SCORES, make_run, ranked

Curate = Callable[..., Outcome]


def test_a_pair_with_its_ranks_and_why_it_was_left_out(curate: Curate, tmp_path: Path) -> None:
    """By hand: `pair-0` is a over b, each better by one scorer; `pair-2` is a tie; `pair-3` is d over a."""
    run = make_run(tmp_path / "run", HAND_PAIRS, HAND_SCORES)
    ranked(run, metric="margin", top="1", psi=BLEND)
    lines = curate("show", "pair-0", "--run", run.root).out.splitlines()
    assert lines[:2] == ["pair      pair-0: image 0 is preferred", "prompt    a prompt"]
    assert [line.split() for line in lines[4:6]] == [["clip", "0.1", "0.2"], ["pickscore", "20", "18"]]
    assert lines[6] == "ranking   default: rank 2 of 3 by margin, quality 0, not selected"
    tie = curate("show", "pair-2", "--run", run.root).out
    assert "pair-2: a tie\n" in tie
    assert "\nranking   default: not ranked\nleft out  rank default: tie, " in tie
    report = json.loads(curate("show", "pair-3", "--run", run.root, "--json").out)
    assert [place["selected"] for place in report["rankings"]] == [True]
    assert [image["scores"][0]["clip_score"] for image in report["images"]] == [pytest.approx(0.4), pytest.approx(0.1)]


def test_an_image_and_what_is_neither(curate: Curate, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", HAND_PAIRS, HAND_SCORES)
    lines = curate("show", "b", "--run", run.root).out.splitlines()
    assert lines[0].startswith("image     b")
    assert [line.split() for line in lines[1:3]] == [["clip", "0.2"], ["pickscore", "18"]]
    assert lines[-1] == "pairs     pair-0, pair-1"
    assert curate("show", "x", "--run", run.root) == Outcome(
        1, "", f"curate: {run.root} has no pair or image 'x'; `curate sql` and `curate search` find their ids\n"
    )


def test_the_pictures_side_by_side(curate: Curate, ranked_run: Path, tmp_path: Path) -> None:
    found = json.loads(curate("sql", "from pairs limit 1", "--run", ranked_run, "--json").out)[0]
    assert curate("show", found["pair_id"], "--run", ranked_run, "--png", tmp_path / "pair.png").code == 0
    with Image.open(tmp_path / "pair.png") as picture:
        assert picture.size == (64 + 8 + 64, 64)


def test_half_blocks_hold_two_pixels_each() -> None:
    console = Console(width=20, color_system="truecolor", force_terminal=True)
    picture = beside([Image.new("RGB", (2, 2), "red"), Image.new("RGB", (4, 4), "blue")], gap_px=1)
    assert picture.size == (5, 2)
    with console.capture() as captured:
        draw(console, picture)
    red, blue = "38;2;255;0;0;48;2;255;0;0", "38;2;0;0;255;48;2;0;0;255"
    assert [captured.get().count(colour) for colour in (red, blue)] == [2, 2]
    assert captured.get().count("\u2580") == 5
