"""docs/sql.md: each of its queries runs on the demo and gives what the page shows.

The page's results hold numbers that another machine's rounding can move, and with them the order of near-equal rows, so
columns, types and the number of rows are compared. `--update` writes the results anew.
"""

import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import polars as pl
import pyarrow.parquet as pq
import pytest

from curate.ask.query import table_text
from tests.demo import ROOT, command

PAGE = ROOT / "docs" / "sql.md"
SECTION = re.compile(
    r"^## (?P<number>\d+)\. (?P<title>[^\n]+)\n\n(?P<why>.+?)\n\n```sql\n(?P<sql>.+?)```\n", re.M | re.S
)
RESULT = re.compile(r"\n```text\n(?P<result>.+?)```\n", re.S)
WIDTH_CHARS, ROWS = 118, 12
SCORERS = ("clip", "pickscore", "aesthetic")


class Query(NamedTuple):
    """One section of the page."""

    title: str
    why: str
    sql: str
    result: str | None  # as the page shows it


def queries() -> list[Query]:
    text = PAGE.read_text(encoding="utf-8")
    found = []
    for section in SECTION.finditer(text):
        result = RESULT.match(text, section.end())
        found.append(Query(section["title"], section["why"], section["sql"], result["result"] if result else None))
    return found


QUERIES = queries()


@pytest.fixture(scope="session")
def run(demo_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo, ranked as the page says."""
    root = Path(shutil.copytree(demo_run, tmp_path_factory.mktemp("docs") / "run"))
    command("curate", "rank", "--metric", "margin", "--name", "margin", run=root)
    command("curate", "rank", run=root)
    return root


@pytest.fixture
def connection(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> duckdb.DuckDBPyConnection:
    """The database as any program opens it, in a folder of its own: one of the queries writes a file."""
    monkeypatch.chdir(tmp_path)
    return duckdb.connect(str(run / "curation.duckdb"), read_only=True)


def drawn(connection: duckdb.DuckDBPyConnection, sql: str) -> str:
    relation = connection.sql(sql)
    return table_text(relation, WIDTH_CHARS, ROWS)


def shown_columns(result: str) -> tuple[list[str], list[str]]:
    """Names and types in a drawn table's head."""
    names, types = ([cell.strip() for cell in line.strip("│").split("│")] for line in result.splitlines()[1:3])
    return names, types


def shown_rows(result: str) -> int:
    """Rows of a drawn table, none of which is broken over two lines."""
    return len([line for line in result.splitlines()[4:] if line.startswith("│")])


def test_the_page_is_whole(request: pytest.FixtureRequest) -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert len(QUERIES) == text.count("```sql") == len(re.findall(r"^## ", text, re.M)) >= 12
    assert request.config.getoption("--update") or [query.title for query in QUERIES if query.result is None] == []


@pytest.mark.parametrize("query", QUERIES, ids=[query.title for query in QUERIES])
def test_the_style_of_a_query(query: Query) -> None:
    code = re.sub(r"'[^']*'|--[^\n]*", "", query.sql)
    assert code == code.lower()
    assert "order by" in code or "count(*)" in code or "corr(" in code or "where pair_id =" in code
    assert max(map(len, query.sql.splitlines())) <= 120
    assert len(query.why) < 400


@pytest.mark.parametrize("query", QUERIES, ids=[query.title for query in QUERIES])
def test_a_query_gives_what_the_page_shows(
    query: Query, connection: duckdb.DuckDBPyConnection, request: pytest.FixtureRequest
) -> None:
    if request.config.getoption("--update"):
        pytest.skip("the page is written anew")
    assert query.result is not None
    found = drawn(connection, query.sql)
    assert shown_columns(found) == shown_columns(query.result)
    assert shown_rows(found) == shown_rows(query.result) > 0


def rows_of(connection: duckdb.DuckDBPyConnection, number: int) -> list[tuple[Any, ...]]:
    """The whole result of the page's query of that number, its limit taken off."""
    return connection.execute(re.sub(r"\nlimit \d+\n\Z", "\n", QUERIES[number - 1].sql)).fetchall()


def scored_pairs(run: Path) -> pl.DataFrame:
    """The judged pairs with both images' scores, ties included, straight from the tables' files."""
    pairs = pl.read_parquet(run / "pairs.parquet")
    scores = pl.read_parquet(str(run / "scores" / "*.parquet"))
    for side in (0, 1):
        pairs = pairs.join(scores, left_on=["prompt_id", f"image_{side}_uid"], right_on=["prompt_id", "image_uid"])
        pairs = pairs.rename({f"{name}_score": f"{name}_{side}" for name in SCORERS})
    return pairs


def test_annotators_agreement_beside_a_slow_version(run: Path, connection: duckdb.DuckDBPyConnection) -> None:
    agreed: dict[str, list[list[float]]] = {}
    for row in scored_pairs(run).filter(pl.col("preference").is_not_null()).iter_rows(named=True):
        sides = [(row[f"{scorer}_{row['preference']}"], row[f"{scorer}_{1 - row['preference']}"]) for scorer in SCORERS]
        points = [float(preferred > rejected) + 0.5 * (preferred == rejected) for preferred, rejected in sides]
        agreed.setdefault(row["annotator_id"], []).append(points)
    expected = {
        annotator: [len(points), *(sum(column) / len(points) for column in zip(*points, strict=True))]
        for annotator, points in agreed.items()
    }
    found = {row[0]: list(row[1:5]) for row in rows_of(connection, 4)}
    assert found.keys() == expected.keys()
    for annotator, values in found.items():
        assert values == pytest.approx(expected[annotator], abs=6e-4)  # rounded to three digits


def test_wins_by_model_and_by_image_beside_a_slow_version(run: Path, connection: duckdb.DuckDBPyConnection) -> None:
    wins: Counter[str] = Counter()
    showings: Counter[str] = Counter()
    for row in scored_pairs(run).filter(pl.col("preference").is_not_null()).iter_rows(named=True):
        for side in (0, 1):
            for thing in (row[f"image_{side}_model"], row[f"image_{side}_uid"]):
                wins[thing] += row["preference"] == side
                showings[thing] += 1
    for model, _, rate, *_ in rows_of(connection, 6):
        assert rate == pytest.approx(wins[model] / showings[model], abs=6e-4)
    images = [(round((wins[one] + 1) / (showings[one] + 2), 3), wins[one]) for one in showings if "-sd-" not in one]
    assert sorted((rate, won) for _, won, _, rate, _ in rows_of(connection, 13)) == sorted(images)


def test_ties_by_distance_beside_a_slow_version(run: Path, connection: duckdb.DuckDBPyConnection) -> None:
    pairs = scored_pairs(run).with_columns(distance=(pl.col("clip_0") - pl.col("clip_1")).abs())
    ordered = pairs.sort("distance", "pair_id")["preference"].is_null().to_list()
    sizes = [len(ordered) // 5 + (part < len(ordered) % 5) for part in range(5)]
    start = 0
    for (_, size, *_, percent), expected in zip(rows_of(connection, 15), sizes, strict=True):
        part = ordered[start : start + expected]
        assert (size, percent) == (expected, pytest.approx(100 * sum(part) / expected, abs=0.06))
        start += expected


def test_counts_beside_slow_versions(run: Path, connection: duckdb.DuckDBPyConnection) -> None:
    pairs = pl.read_parquet(run / "pairs.parquet")["preference"]
    assert rows_of(connection, 14)[0][:3] == ((pairs == 0).sum(), (pairs == 1).sum(), pairs.null_count())
    kept, rows = len(pairs), 6600
    costs = {(stage, reason): (count, percent) for stage, reason, count, percent in rows_of(connection, 9)}
    assert sum(count for (stage, _), (count, _) in costs.items() if stage == "embed") == rows - kept
    for (stage, _), (count, percent) in costs.items():
        assert percent == pytest.approx(100 * count / (rows if stage == "embed" else kept), abs=0.06)
    one, other = (
        set(pl.read_parquet(run / "rankings" / f"{name}.parquet").filter("selected")["pair_id"])
        for name in ("default", "margin")
    )
    shared = pytest.approx(100 * len(one & other) / len(one | other), abs=0.06)
    assert rows_of(connection, 10) == [(len(one & other), len(one - other), len(other - one), shared)]
    concentration = rows_of(connection, 11)
    assert sum(row[0] for row in concentration) == len(one)
    assert concentration[-1][2] == 100


def test_curate_sql_gives_the_same_table(run: Path, connection: duckdb.DuckDBPyConnection) -> None:
    for query in QUERIES:
        if not query.sql.startswith("copy"):
            assert command("curate", "sql", query.sql, run=run).split() == (
                table_text(connection.sql(query.sql), 120, 40).split()
            )
            return


def test_the_metrics_of_the_ranking_page_rank(run: Path, tmp_path: Path) -> None:
    """Each as a user saves it: it binds to the run's views and gives qualities."""
    metrics = re.findall(r"^```sql\n(.+?)^```", (ROOT / "docs" / "ranking.md").read_text(encoding="utf-8"), re.M | re.S)
    for number, metric in enumerate(metrics):
        (tmp_path / f"metric_{number}.sql").write_text(metric)
        found = json.loads(command("curate", "metrics", "check", tmp_path / f"metric_{number}.sql", "--json", run=run))
        assert found["ranked"] > 0
    assert len(metrics) >= 2


def test_the_file_that_the_last_query_writes(connection: duckdb.DuckDBPyConnection) -> None:
    [query] = [query for query in QUERIES if query.sql.startswith("copy")]
    connection.execute(query.sql)
    selected = connection.execute("select count(*) from ranking where selected").fetchall()[0][0]
    assert pq.read_metadata("selected.parquet").num_rows == selected


def test_update(connection: duckdb.DuckDBPyConnection, request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("--update"):
        pytest.skip("only with --update")
    text = RESULT.sub("", PAGE.read_text(encoding="utf-8"))
    PAGE.write_text(
        SECTION.sub(lambda section: f"{section[0]}\n```text\n{drawn(connection, section['sql'])}\n```\n", text),
        encoding="utf-8",
    )
