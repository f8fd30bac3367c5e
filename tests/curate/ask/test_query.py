"""`curate sql`: every form of output, and nothing that writes."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from tests.curate.builders import Outcome
from tests.curate.runs import HAND_PAIRS, HAND_SCORES, make_run, ranked

Curate = Callable[..., Outcome]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    ranked(make_run(tmp_path / "run", HAND_PAIRS, HAND_SCORES), top="2")
    return tmp_path / "run"


def test_forms(curate: Curate, root: Path, tmp_path: Path) -> None:
    query = "select pair_id, rank, clip_margin > 0 as right_way, [1, 2] as list from ranking order by rank"
    table = curate("sql", query, "--run", root)
    assert "pair-3" in table.out
    rows = list(csv.DictReader(io.StringIO(curate("sql", query, "--run", root, "--csv").out)))
    assert rows[0] == {"pair_id": "pair-3", "rank": "1", "right_way": "true", "list": "[1, 2]"}
    objects = json.loads(curate("sql", query, "--run", root, "--json").out)
    assert objects[0] == {"pair_id": "pair-3", "rank": 1, "right_way": True, "list": [1, 2]}
    curate("sql", query, "--run", root, "--parquet", tmp_path / "out.parquet")
    assert pq.read_table(tmp_path / "out.parquet")["pair_id"].to_pylist() == [row["pair_id"] for row in rows]


def test_json_of_numbers_that_json_lacks(curate: Curate, root: Path) -> None:
    query = "select 'NaN'::float as a, '-Infinity'::double as b, ['NaN'::float, 0.5] as c, 'NaN, № 1' as d"
    text = curate("sql", query, "--run", root, "--json").out
    assert text == '[{"a":null,"b":null,"c":[null,0.5],"d":"NaN, № 1"}]\n'


def test_empty_results_are_valid_documents(curate: Curate, root: Path) -> None:
    query = "select pair_id from ranking where false"
    assert json.loads(curate("sql", query, "--run", root, "--json").out) == []
    assert curate("sql", query, "--run", root, "--csv").out == "pair_id\n"


@pytest.mark.parametrize(
    "query",
    [
        "copy (select 1) to 'out.csv'",
        "explain analyze copy (select 1) to 'out.csv'",
        "explain (analyze) copy (select 1) to 'out.csv'",
        "/* é */ explain analyze copy (select 1) to 'out.csv'",
        "explain (analyze, format json) copy (select 1) to 'out.csv'",
        "create table t as select 1",
        "attach 'other.duckdb'",
        "insert into pairs values (1)",
        "drop view pairs",
        "set threads = 1",
        "install httpfs",
    ],
)
def test_nothing_that_writes_is_allowed(
    curate: Curate, root: Path, query: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stopped = curate("sql", query, "--run", root)
    assert (stopped.code, stopped.out) == (1, "")
    assert "only queries are allowed here" in stopped.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


@pytest.mark.parametrize(
    "query", ["select 1 as n; -- é", "select 1 as n;;", "select 1 as n /* ; */", "select 1 as n\n;\n"]
)
def test_how_a_query_may_end(curate: Curate, root: Path, query: str) -> None:
    assert curate("sql", query, "--run", root, "--csv").out == "n\n1\n"


def test_a_text_that_looks_like_an_end(curate: Curate, root: Path) -> None:
    assert curate("sql", "select ';--' as text", "--run", root, "--csv").out == "text\n;--\n"


def test_a_plan_may_be_asked_for(curate: Curate, root: Path) -> None:
    assert "Total Time" in curate("sql", "explain (analyze) select 1", "--run", root).out


@pytest.mark.parametrize("form", ["--csv", "--parquet"])
def test_no_setting_and_no_other_file_is_touched(curate: Curate, root: Path, tmp_path: Path, form: str) -> None:
    (tmp_path / "secret.csv").write_text("a\n1\n")
    arguments = [form, *([tmp_path / "out.parquet"] if form == "--parquet" else [])]
    for query, words in {
        f"from enable_logging(storage = 'file', storage_path = '{tmp_path}/logs')": "has been locked",
        f"from '{tmp_path}/secret.csv'": "disabled by configuration",
        f"from read_csv('{tmp_path}/secret.csv')": "disabled by configuration",
    }.items():
        stopped = curate("sql", query, "--run", root, *arguments)
        assert (stopped.code, stopped.out) == (1, "")
        assert words in stopped.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "secret.csv"]


def test_errors_are_duckdbs_own_words(curate: Curate, root: Path) -> None:
    stopped = curate("sql", "select qualty from ranking", "--run", root)
    assert stopped.code == 1
    assert stopped.err.startswith('curate: sql: Binder Error: Referenced column "qualty" not found')
    assert "quality" in stopped.err


def test_two_forms_at_once_is_a_usage_error(curate: Curate, root: Path) -> None:
    stopped = curate("sql", "select 1", "--run", root, "--csv", "--json")
    assert (stopped.code, stopped.err) == (2, "curate: give one of --csv, --json and --parquet\n")


def test_a_moved_run_still_answers(curate: Curate, root: Path, tmp_path: Path) -> None:
    root.rename(tmp_path / "moved")
    assert json.loads(
        curate("sql", "select count(*) as n from ranking", "--run", tmp_path / "moved", "--json").out
    ) == [{"n": 3}]


def test_the_database_file_opens_by_itself(root: Path) -> None:
    connection = duckdb.connect(str(root / "curation.duckdb"), read_only=True)
    views = {name for (name,) in connection.sql("select view_name from duckdb_views() where not internal").fetchall()}
    assert views >= {"pairs", "images", "prompts", "scores", "dropped", "pair_scores", "ranking", "ranking_default"}
    assert connection.sql("select count(*) from pairs").fetchall() == [(4,)]


def test_before_the_first_ranking_the_tables_answer(curate: Curate, tmp_path: Path) -> None:
    make_run(tmp_path / "run", HAND_PAIRS, HAND_SCORES)
    assert curate("sql", "select count(*) from scores", "--run", tmp_path / "run", "--csv").out.endswith("\n4\n")


def test_parquet_that_cannot_be_written_is_one_sentence(curate: Curate, root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    target = tmp_path / "file" / "out.parquet"
    stopped = curate("sql", "select 1 as one", "--run", root, "--parquet", target)
    assert (stopped.code, stopped.out) == (1, "")
    assert stopped.err.startswith(f"curate: cannot write {target}: ")


def test_a_full_disk_under_parquet_is_one_sentence(
    curate: Curate, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise duckdb.IOException("IO Error: Could not write file: No space left on device")

    monkeypatch.setattr(duckdb.DuckDBPyRelation, "write_parquet", full)
    stopped = curate("sql", "select 1 as one", "--run", root, "--parquet", tmp_path / "out.parquet")
    assert stopped.err.startswith(f"curate: cannot write {tmp_path / 'out.parquet'}: IO Error: Could not write")
    assert not list(tmp_path.glob("*out*"))
