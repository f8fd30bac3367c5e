"""What the SQL prompt proposes while a query is typed: views, their columns, keywords, commands."""

import re
from collections.abc import Iterable, Iterator

import duckdb
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document

_WORD = re.compile(r"\w*\Z")
_QUALIFIER = re.compile(r"(\w+)\.\Z")
_AFTER_FROM = re.compile(r"\b(?:from|join)\s+\Z", re.IGNORECASE)
_NAMED = re.compile(r"\b(?:from|join)\s+(\w+)(?:\s+(?:as\s+)?(\w+))?", re.IGNORECASE)


class SqlCompleter(Completer):
    """Proposals by what stands before the cursor.

    views: view -> its columns; keywords: SQL's words, lower case; commands: words that start with a dot.
    """

    def __init__(self, views: dict[str, list[str]], keywords: Iterable[str], commands: Iterable[str]) -> None:
        self.views = views
        self.columns = sorted({column for columns in views.values() for column in columns})
        self.keywords = sorted(keywords)
        self.commands = sorted(commands)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
        """The proposals that start with the word before the cursor, each with what it is."""
        before = document.text_before_cursor
        word = found[0] if (found := _WORD.search(before)) else ""
        if before.startswith(".") and " " not in before:
            word = before
        if not word and not before.rstrip(" ").endswith((".", "from", "join", ".schema")):
            return
        for kind, proposals in self._proposals(before[: len(before) - len(word)], document.text):
            for proposal in proposals:
                if proposal.startswith(word.lower()) and proposal != word:
                    yield Completion(proposal, -len(word), display_meta=kind)

    def _proposals(self, before: str, text: str) -> list[tuple[str, Iterable[str]]]:
        """(what they are, words) in the order of the menu; `before` ends where the word starts."""
        if not before and text.startswith("."):
            return [("command", self.commands)]
        if before.startswith(".schema") or _AFTER_FROM.search(before):
            return [("view", self.views)]
        if qualifier := _QUALIFIER.search(before):
            return [("column", self._columns_of(qualifier[1].lower(), text))]
        named = [column for view in self._named(text).values() for column in self.views[view]]
        return [("column", dict.fromkeys(named) or self.columns), ("view", self.views), ("keyword", self.keywords)]

    def _columns_of(self, qualifier: str, text: str) -> list[str]:
        """The columns of a view or of an alias; all columns where it is neither."""
        view = self._named(text).get(qualifier, qualifier)
        return self.views.get(view, self.columns)

    def _named(self, text: str) -> dict[str, str]:
        """Alias or own name -> view, for the views that `from` and `join` name anywhere in the text."""
        found = {}
        for view, alias in _NAMED.findall(text.lower()):
            if view in self.views:
                found[view] = view
                if alias and alias not in self.keywords:
                    found[alias] = view
        return found


def completer_of(connection: duckdb.DuckDBPyConnection, commands: Iterable[str]) -> SqlCompleter:
    """A completer over the connection's views and DuckDB's own keywords."""
    views: dict[str, list[str]] = {}
    for view, column in connection.execute(
        "select table_name, column_name from duckdb_columns() where not internal order by table_name, column_index"
    ).fetchall():
        views.setdefault(view, []).append(column)
    keywords = connection.execute("select lower(keyword_name) from duckdb_keywords()").fetchall()
    return SqlCompleter(views, (word for (word,) in keywords), commands)
