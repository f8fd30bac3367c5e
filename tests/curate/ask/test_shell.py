"""The SQL prompt, key by key: queries over lines, errors, commands, completion, history, and nothing that writes."""

import io
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prompt_toolkit.completion import CompleteEvent, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output import DummyOutput

from curate.ask.completion import SqlCompleter
from curate.ask.shell import COMMANDS, answer, history_path, interact, is_complete
from curate.errors import QueryError
from curate.rank.rankings import open_views
from curate.storage.run import Run
from tests.curate.ask.test_query import root
from tests.curate.builders import Outcome

Curate = Callable[..., Outcome]
CTRL_C, CTRL_D, UP, TAB = "\x03", "\x04", "\x1b[A", "\t"
GREETING_LINES = 3

__all__ = ["root"]  # the fixture: a ranked run of four pairs


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def keys() -> Iterator[PipeInput]:
    with create_pipe_input() as pipe:
        yield pipe


def typed(root: Path, keys: PipeInput, text: str) -> str:
    """What the prompt writes while this is typed, without its greeting."""
    out = io.StringIO()
    keys.send_text(text)
    interact(Run(root), out, keys, DummyOutput())
    return "\n".join(out.getvalue().split("\n")[GREETING_LINES:])


def test_a_query_over_lines_ends_with_a_semicolon(root: Path, keys: PipeInput) -> None:
    shown = typed(root, keys, f"select pair_id, rank\rfrom ranking\rwhere rank = 1;\r{CTRL_D}")
    assert "pair-3" in shown
    assert shown.count("pair_id") == 1


def test_several_queries_of_one_line(root: Path, keys: PipeInput) -> None:
    shown = typed(root, keys, f"select 'one' as a; select 'two' as b;\r{CTRL_D}")
    assert shown.index("one") < shown.index("two")


def test_an_error_is_shown_and_the_prompt_stays(root: Path, keys: PipeInput) -> None:
    shown = typed(root, keys, "select qualty from ranking;\rselec 1;\rselect 42 as still_here;\r.exit\r")
    assert shown.startswith('sql: Binder Error: Referenced column "qualty" not found')
    assert "sql: Parser Error" in shown
    assert "still_here" in shown


def test_ctrl_c_clears_the_line(root: Path, keys: PipeInput) -> None:
    shown = typed(root, keys, f"select 'gone'\r as x {CTRL_C}select 'kept' as x;\r{CTRL_D}")
    assert "kept" in shown
    assert "gone" not in shown


def test_commands(root: Path, keys: PipeInput) -> None:
    shown = typed(root, keys, f".tables\r.schema prompts\r.help\r.schema prompt\r.schema\r.hlep\r.quit\r{CTRL_D}")
    lines = shown.splitlines()
    assert "pairs            One judged (or sampled) pair of the source." in lines
    assert "prompt     varchar  The text that made the images." in lines
    assert any(line.startswith(".schema NAME") for line in lines)
    assert "no view 'prompt'; did you mean 'prompts'?" in lines
    assert any(line.startswith("no view ''; known: ") for line in lines)
    assert "no command .hlep; did you mean '.help'?" in lines


def test_greeting_names_the_run_and_its_database(root: Path, keys: PipeInput) -> None:
    out = io.StringIO()
    keys.send_text(CTRL_D)
    interact(Run(root), out, keys, DummyOutput())
    assert out.getvalue().startswith(f"{root}: ")
    assert f"duckdb {root}/curation.duckdb\n" in out.getvalue()


def test_a_long_result_is_shortened_with_a_note(root: Path, keys: PipeInput) -> None:
    shown = typed(root, keys, f"select range as n from range(500);\r{CTRL_D}")
    assert "(40 shown)" in shown
    assert shown.rstrip().endswith("shortened to the window; `curate sql QUERY --csv` prints all of it")
    assert "shortened" not in answered(root, "select range as n from range(3)")


def answered(root: Path, text: str) -> str:
    out = io.StringIO()
    answer(open_views(Run(root)), text, out)
    return out.getvalue()


def test_a_plan_is_shown_as_it_stands(root: Path) -> None:
    shown = answered(root, "explain analyze select count(*) from pairs;")
    assert "Total Time" in shown
    assert "explain_key" not in shown


WRITING = [
    "copy (select 1) to '{run}/out.csv'",
    "explain (analyze) copy (select 1) to '{run}/out.csv'",
    "/* é */ explain analyze copy (select 1) to '{run}/out.csv'",
    "explain analyze copy (select 1) to '{run}/out.csv'",
    "create table t as select 1",
    "create or replace view pairs as select 1",
    "drop view pairs",
    "insert into pairs values (1)",
    "attach '{run}/other.duckdb'",
    "export database '{run}/out'",
    "install httpfs",
    "load httpfs",
    "set threads = 1",
    "call enable_logging(storage = 'file', storage_path = '{run}/out')",
    "select * from enable_logging(storage = 'file', storage_path = '{run}/out')",
    "select * from enable_profiling(save_location = '{run}/out.json')",
    "select * from read_text('/etc/hostname')",
    "select * from glob('/etc/*')",
]


def test_nothing_is_written_and_nothing_else_is_read(root: Path, keys: PipeInput) -> None:
    before = sorted(root.rglob("*"))
    lines = "".join(query.format(run=root) + ";\r" for query in WRITING)
    shown = typed(root, keys, f"{lines}select count(*) as pairs_left from pairs;\r{CTRL_D}")
    errors = [line for line in shown.splitlines() if line.startswith("sql: ")]
    assert len(errors) == len(WRITING)
    assert all("only queries are allowed" in e or "Permission" in e or "locked" in e for e in errors), errors
    assert "pairs_left" in shown
    assert sorted(root.rglob("*")) == before


@pytest.mark.parametrize(
    ("text", "complete"),
    [
        ("select 1;", True),
        ("select 1; -- done", True),
        ("select 'é';", True),
        ("  ", True),
        (".tables", True),
        ("select 1", False),
        ("select 'a;", False),
        ('select "a;', False),
        ("select 1 -- ;", False),
        ("select 1 /* ;", False),
        ("select 1; select 2", False),
    ],
)
def test_when_enter_runs_the_text(text: str, complete: bool) -> None:
    assert is_complete(text) is complete


@pytest.fixture
def completer() -> SqlCompleter:
    views = {"pairs": ["pair_id", "preference"], "ranking": ["pair_id", "quality", "rank"], "ranking_b": ["rank"]}
    return SqlCompleter(views, ["select", "from", "join", "where", "order", "range"], COMMANDS)


@pytest.mark.parametrize(
    ("text", "proposed"),
    [
        ("sel", ["select"]),
        ("select 1 from ra", ["ranking", "ranking_b"]),
        ("select 1 from ", ["pairs", "ranking", "ranking_b"]),
        ("select ranking.", ["pair_id", "quality", "rank"]),
        ("select r.q| from ranking as r", ["quality"]),
        ("select p.| from ranking r join pairs p using (pair_id)", ["pair_id", "preference"]),
        ("select unknown.p", ["pair_id", "preference"]),
        ("select r| from pairs", ["ranking", "ranking_b", "range"]),
        ("select r| from ranking where 1 = 1", ["rank", "ranking", "ranking_b", "range"]),
        (".s", [".schema"]),
        (".schema ra", ["ranking", "ranking_b"]),
        ("select ", []),
        ("", []),
    ],
)
def test_completion(completer: SqlCompleter, text: str, proposed: list[str]) -> None:
    before = text.partition("|")[0]
    document = Document(text.replace("|", ""), len(before))
    assert [item.text for item in completer.get_completions(document, CompleteEvent())] == proposed


def test_tab_completes_what_is_typed(root: Path, keys: PipeInput, monkeypatch: pytest.MonkeyPatch) -> None:
    """The menu opens by itself while typing, in a thread of its own; Tab takes its first entry once it is there."""
    out, proposed, propose = io.StringIO(), threading.Event(), SqlCompleter.get_completions

    def proposing(self: SqlCompleter, document: Document, event: CompleteEvent) -> Iterator[Completion]:
        yield from propose(self, document, event)
        if document.text == "select quali":
            proposed.set()

    def type_slowly() -> None:
        for text in ("select quali", TAB, " from ranking where rank = 1;\r", CTRL_D):
            keys.send_text(text)
            assert proposed.wait(60)
            time.sleep(0.5)

    monkeypatch.setattr(SqlCompleter, "get_completions", proposing)

    typist = threading.Thread(target=type_slowly)
    typist.start()
    interact(Run(root), out, keys, DummyOutput())
    typist.join()
    assert "quality" in out.getvalue()


def test_history_outlives_the_prompt(root: Path, state: Path) -> None:
    with create_pipe_input() as first:
        typed(root, first, f"select 'remembered' as x;\r{CTRL_D}")
    assert "select 'remembered' as x;" in (state / "pairsieve" / "sql_history").read_text()


@pytest.mark.parametrize("stated", ["", "relative/state"])
def test_history_without_a_usable_state_folder(stated: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", stated)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert history_path() == tmp_path / ".local" / "state" / "pairsieve" / "sql_history"


def test_no_history_where_it_cannot_be_written(
    root: Path, keys: PipeInput, state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state.write_text("in the way")
    assert "42" in typed(root, keys, f"select 42;\r{CTRL_D}")
    assert "note: no history is kept: " in capsys.readouterr().err


LONG = "select sum(sin(a.range * b.range)) from range(1000000) a, range(1000000) b"


@pytest.mark.usefixtures("ctrl_c")
def test_the_prompt_goes_on_after_a_stopped_query(root: Path, keys: PipeInput) -> None:
    # Pressed while the query runs; prompt_toolkit has given the terminal back by then, so it is a signal.
    alarm = threading.Timer(2, lambda: os.kill(os.getpid(), 2))
    alarm.start()
    shown = typed(root, keys, f"{LONG};\rselect 42 as after;\r{CTRL_D}")
    assert shown.startswith("stopped\n")
    assert "after" in shown


def test_a_pipe_brings_the_queries(curate: Curate, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("select 'one' as a;\n-- and\nselect 'two' as b"))
    shown = curate("sql", "--run", root)
    assert shown.code == 0
    assert shown.out.index("one") < shown.out.index("two")
    monkeypatch.setattr("sys.stdin", io.StringIO("select 1 as a"))
    assert curate("sql", "--run", root, "--csv").out == "a\n1\n"
    monkeypatch.setattr("sys.stdin", io.StringIO("select 1; select 2"))
    refused = curate("sql", "--run", root, "--csv")
    assert (refused.code, refused.err) == (1, "curate: sql: one SQL statement is needed, got 2\n")
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert curate("sql", "--run", root).err == (
        'curate: no query was given; write one, such as "from pairs limit 5", or bring it by a pipe\n'
    )


def test_a_form_needs_a_query(curate: Curate, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    refused = curate("sql", "--run", root, "--json")
    assert (refused.code, refused.err) == (2, "curate: --csv, --json and --parquet need a query\n")


def test_statements_that_do_not_parse(root: Path) -> None:
    with pytest.raises(QueryError, match="Parser Error"):
        answered(root, "select 'open")
