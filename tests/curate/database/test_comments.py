"""Every view and column of a run's database says what it is, also to a program that knows nothing of pairsieve."""

import json
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from curate.rank.rankings import open_views
from curate.rank.stage import RankOptions, rank
from curate.storage.run import Run
from schemas import tables
from schemas.descriptions import COLUMNS, describe_column, describe_view
from tests.curate.runs import BLEND, HAND_PAIRS, HAND_SCORES, make_run

# calibrated asks for the views calibration_weights, calibrated and annotators too
METRIC = "calibrated"
READER = """
import duckdb, json, sys
connection = duckdb.connect(sys.argv[1], read_only=True)
views = "select view_name, comment from duckdb_views() where not internal"
columns = "select table_name, column_name, comment from duckdb_columns() where not internal"
print(json.dumps([connection.execute(query).fetchall() for query in (views, columns)]))
"""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = make_run(tmp_path / "run", HAND_PAIRS, HAND_SCORES)
    rank(made, RankOptions(name="it_s", metric=METRIC, psi=BLEND, top="2"))
    return made


def read_elsewhere(run: Run, folder: Path) -> tuple[dict[str, str], dict[tuple[str, str], str]]:
    """Comments of views and columns as a fresh process reads them in another working directory."""
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", READER, str(run.database.resolve())],
        capture_output=True, text=True, cwd=folder, check=True,
    )  # fmt: skip
    views, columns = json.loads(done.stdout)
    return dict(views), {(view, column): comment for view, column, comment in columns}


def test_no_view_and_no_column_lacks_a_comment(run: Run, tmp_path: Path) -> None:
    views, columns = read_elsewhere(run, tmp_path / "elsewhere")
    assert {"pairs", "images", "prompts", "scores", "dropped", "pair_scores", "pair_facts"} < set(views)
    assert {"ranking", "ranking_it_s", "calibrated", "annotators", "calibration_weights"} < set(views)
    assert [view for view, comment in views.items() if not comment] == []
    assert [column for column, comment in columns.items() if not comment] == []
    assert {view for view, _ in columns} == set(views)


def test_what_comments_say(run: Run, tmp_path: Path) -> None:
    views, columns = read_elsewhere(run, tmp_path / "elsewhere")
    assert views["ranking_it_s"] == "One ranked pair of the ranking 'it_s'."
    assert columns["scores", "clip_score"] == "clip's score of the image for the prompt."
    assert columns["ranking", "clip_margin"].startswith("clip_preferred - clip_rejected")
    assert columns["pair_scores", "psi_preferred"] == COLUMNS["psi_preferred"]
    assert columns["dropped", "pair_id"] != columns["pairs", "pair_id"]


def test_the_database_opens_read_only_beside_another_reader(run: Run, tmp_path: Path) -> None:
    with duckdb.connect(str(run.database), read_only=True) as here:
        assert read_elsewhere(run, tmp_path / "elsewhere")[0]
        assert here.sql("select count(*) from pairs").fetchall() == [(4,)]


def test_before_the_first_ranking(tmp_path: Path) -> None:
    connection = open_views(make_run(tmp_path / "run", HAND_PAIRS, HAND_SCORES))
    query = "select count(*) from duckdb_columns() where not internal and comment is null"
    assert connection.execute(query).fetchall() == [(0,)]


def test_every_field_of_a_schema_is_described() -> None:
    dimensions, scorers = {"clip": 4}, ["clip", "my_own"]
    written = {
        "pairs": tables.PAIRS,
        "images": tables.with_embeddings(tables.IMAGES, dimensions, tables.pa.float16()),
        "prompts": tables.with_embeddings(tables.PROMPTS, dimensions, tables.pa.float32()),
        "scores": tables.with_scores(tables.SCORES, scorers),
        "dropped": tables.DROPPED,
        "ranking": tables.with_margins(tables.RANKING, scorers),
    }
    for view, schema in written.items():
        assert describe_view(view)
        assert [name for name in schema.names if not describe_column(view, name)] == []


def test_scorers_that_read_one_side_only_say_so() -> None:
    assert (describe_column("scores", "nsfw_words_score") or "").startswith("1 where the prompt holds a word")
    assert (describe_column("scores", "nsfw_score") or "").endswith("the prompt plays no part.")
    assert describe_column("scores", "colour_score") == "colour's score of the image for the prompt."


def test_what_is_not_ours_has_no_description() -> None:
    assert describe_view("my_view") is None
    assert describe_column("pairs", "my_column") is None
