"""What the commands share: options, the check of a ranking's name, and the one way to print a report."""

import shlex
from typing import Annotated, Any

import typer

from curate.errors import UsageError
from curate.storage.files import is_local, local_path
from curate.terminal.text import json_text


def local_folder(run: str | None) -> str | None:
    """DuckDB and locks need a folder. Raises UsageError for a URL other than file://."""
    if run is None:
        return None
    if not is_local(run):
        raise UsageError(f"--run {run}: this command needs a folder; `{fetch_command(run)}` brings the run here")
    return local_path(run)


def fetch_command(url: str) -> str:
    """What to type to have the run at a URL in a folder of this machine."""
    url = url.rstrip("/")
    return f"curate fetch {shlex.quote(url)} --run {shlex.quote(url.rpartition('/')[2])}"


RunOption = Annotated[
    str,
    typer.Option("--run", help="Run directory.", envvar="PAIRSIEVE_RUN", show_default=True, callback=local_folder),
]
RunOrUrlOption = Annotated[
    str, typer.Option("--run", help="Run directory, or its URL.", envvar="PAIRSIEVE_RUN", show_default=True)
]
RankingOption = Annotated[str, typer.Option("--name", help="Which ranking.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]


def print_report(report: dict[str, Any], as_json: bool, lines: list[str] | None = None) -> None:
    """One JSON document, or the lines for people, on stdout."""
    if as_json or lines is None:
        typer.echo(json_text(report))
    else:
        typer.echo("\n".join(lines))


def ranking_name(name: str) -> str:
    """A ranking's name becomes a view's, so it is a word."""
    if not name.isidentifier():
        raise UsageError(f"{name}: the name of a ranking has letters, digits and _ only, and no digit first")
    return name
