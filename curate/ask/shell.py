"""`curate sql` without a query: a prompt over the run's views, read-only, with completion and a history."""

import os
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import IO

import duckdb
from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app
from prompt_toolkit.filters import Condition
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.input import Input
from prompt_toolkit.lexers import PygmentsLexer
from prompt_toolkit.output import Output, create_output
from pygments.lexers.sql import SqlLexer

from curate.ask.completion import completer_of
from curate.ask.query import ROWS_SHOWN, duckdb_words, statements_of, table_text
from curate.database.connection import fetch, literal, seal
from curate.database.interrupts import stoppable
from curate.database.user_sql import ends, read_only_query
from curate.errors import QueryError, nearest
from curate.rank.rankings import open_views
from curate.storage.run import Run
from curate.terminal.progress import say

GREETING = """\
{run}: {views} views, read-only. A query ends with a ; and Ctrl-D leaves.
.tables and .schema NAME say what is there, .help says the rest.
The same views for other programs: duckdb {database}"""
HELP = """\
QUERY;         run a query, over as many lines as you like, until the ;
.tables        the views, and what a row of each is
.schema NAME   the columns of a view, and what they mean
.help          this list
.exit          leave, as Ctrl-D does
Tab completes; the arrow keys and Ctrl-R go through what you asked before; Ctrl-C clears the line or stops a query."""
SHORTENED = "shortened to the window; `curate sql QUERY --csv` prints all of it"
COMMANDS = (".exit", ".help", ".quit", ".schema", ".tables")
LEAVE = (".exit", ".quit")


def interact(run: Run, out: IO[str], keys: Input | None = None, screen: Output | None = None) -> None:
    """Ask for queries and write their results to `out` until the user leaves; an error is shown and the prompt stays.

    keys, screen: the terminal; None for the process's own. Raises: RunError.
    """
    connection = open_views(run)
    seal(connection, run)
    session = make_session(connection, keys, screen)
    views = _views(connection)
    out.write(GREETING.format(run=run.root, views=len(views), database=shlex.quote(str(run.database))) + "\n")
    while (text := _ask(session)) not in LEAVE:
        try:
            with stoppable():
                answer(connection, text, out)
        except KeyboardInterrupt:
            out.write("stopped\n")
        except QueryError as error:
            out.write(f"{error}\n")


def answer(connection: duckdb.DuckDBPyConnection, text: str, out: IO[str]) -> None:
    """Write what a command, or each query of the text, gives. Raises: QueryError."""
    if not text:
        return
    if text.startswith("."):
        out.write(f"{_run_command(connection, text)}\n")
        return
    for statement in statements_of(text):
        drawn = _draw(connection, statement)
        out.write(f"{drawn}\n")
        if " shown)" in drawn.rpartition("┘")[2]:  # below the table
            out.write(f"{SHORTENED}\n")


def is_complete(text: str) -> bool:
    """Whether Enter runs the text: a command, nothing at all, or what ends with a ; that no quote or comment holds."""
    return not text.strip() or text.lstrip().startswith(".") or ends(text)


def make_session(
    connection: duckdb.DuckDBPyConnection, keys: Input | None = None, screen: Output | None = None
) -> PromptSession[str]:
    """The line editor: highlighting, completion while typing, history, several lines until a query is complete."""
    return PromptSession(
        lexer=PygmentsLexer(SqlLexer),
        completer=completer_of(connection, COMMANDS),
        complete_while_typing=True,
        history=open_history(),
        multiline=Condition(lambda: not is_complete(get_app().current_buffer.text)),
        input=keys,
        # The prompt goes to the terminal even where the results go to a file.
        output=screen or create_output(always_prefer_tty=True),
    )


def history_path() -> Path:
    """`sql_history` in the user's folder for state (XDG Base Directory Specification 0.8: absolute paths only)."""
    stated = Path(os.environ.get("XDG_STATE_HOME", ""))
    state = stated if stated.is_absolute() else Path.home() / ".local" / "state"
    return state / "pairsieve" / "sql_history"


def open_history() -> History:
    """The history in its file, or, where that cannot be written, one that ends with the process."""
    path = history_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.open("ab").close()
    except OSError as error:
        say(f"note: no history is kept: {path}: {error.strerror}")
        return InMemoryHistory()
    return FileHistory(path)


def _ask(session: PromptSession[str]) -> str:
    """What the user enters next: nothing after Ctrl-C, the word to leave at Ctrl-D."""
    try:
        return session.prompt("curate> ", prompt_continuation="     -> ").strip()
    except KeyboardInterrupt:
        return ""
    except EOFError:
        return LEAVE[0]


def _draw(connection: duckdb.DuckDBPyConnection, statement: str) -> str:
    relation = read_only_query(connection, statement, "sql")
    with duckdb_words():
        return table_text(relation, shutil.get_terminal_size().columns, ROWS_SHOWN)


def _run_command(connection: duckdb.DuckDBPyConnection, text: str) -> str:
    word, _, argument = text.rstrip("; ").partition(" ")
    known: dict[str, Callable[[], str]] = {
        ".help": lambda: HELP,
        ".tables": lambda: _tables(connection),
        ".schema": lambda: _schema(connection, argument.strip()),
    }
    if word not in known:
        raise QueryError(f"no command {word}{nearest(word, COMMANDS)}")
    return known[word]()


def _views(connection: duckdb.DuckDBPyConnection) -> dict[str, str]:
    """Every view and what a row of it is."""
    query = "select view_name, coalesce(comment, '') from duckdb_views() where not internal order by view_name"
    return dict(fetch(connection, query))


def _tables(connection: duckdb.DuckDBPyConnection) -> str:
    views = _views(connection)
    wide = max(map(len, views))
    return "\n".join(f"{view:<{wide}}  {comment}".rstrip() for view, comment in views.items())


def _schema(connection: duckdb.DuckDBPyConnection, view: str) -> str:
    """A view's columns, their types and what they mean. Raises: QueryError for a view that is not there."""
    if view not in (views := _views(connection)):
        raise QueryError(f"no view '{view}'{nearest(view, views)}")
    found = fetch(
        connection,
        "select column_name, lower(data_type), coalesce(comment, '') from duckdb_columns() "
        f"where table_name = {literal(view)} and not internal order by column_index",
    )
    name_wide, type_wide = (max(len(row[index]) for row in found) for index in (0, 1))
    return "\n".join(f"{name:<{name_wide}}  {of:<{type_wide}}  {comment}".rstrip() for name, of, comment in found)
