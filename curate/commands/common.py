"""What the commands share: options, the check of a ranking's name, and the one way to print a report."""

import shlex
from typing import Annotated, Any

import typer

from curate.errors import UsageError
from curate.storage.files import is_local, local_path
from curate.terminal.progress import say
from curate.terminal.text import json_text
from schemas.runs import found_run


def local_folder(run: str | None) -> str | None:
    """DuckDB and locks need a folder. Raises UsageError for a URL other than file://."""
    if run is None:
        return None
    if not is_local(run):
        raise UsageError(f"--run {run}: this command needs a folder; `{fetch_command(run)}` brings the run here")
    return local_path(run)


def run_from_here(context: typer.Context, param: typer.CallbackParam, run: str) -> str:
    """Where none is named, the run that is found from where one stands; said when it is not the default."""
    source = context.get_parameter_source(param.name or "")
    if source is None or source.name != "DEFAULT" or str(found := found_run()) == run:
        return run
    say(f"run: {found} (--run names another)")
    return str(found)


def folder_from_here(context: typer.Context, param: typer.CallbackParam, run: str) -> str | None:
    """The same, for a command that needs a folder. Raises UsageError for a URL other than file://."""
    return local_folder(run_from_here(context, param, run))


def fetch_command(url: str) -> str:
    """What to type to have the run at a URL in a folder of this machine."""
    url = url.rstrip("/")
    return f"curate fetch {shlex.quote(url)} --run {shlex.quote(url.rpartition('/')[2])}"


RUN_DIRECTORY: dict[str, Any] = {"envvar": "PAIRSIEVE_RUN", "show_default": True}
RunOption = Annotated[str, typer.Option("--run", help="Run directory.", callback=folder_from_here, **RUN_DIRECTORY)]
RunOrUrlOption = Annotated[
    str, typer.Option("--run", help="Run directory, or its URL.", callback=run_from_here, **RUN_DIRECTORY)
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
