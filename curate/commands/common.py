"""What the commands share: options, the check of a ranking's name, and the one way to print a report."""

from typing import Annotated, Any

import typer

from curate.errors import UsageError
from curate.lines import json_text


def local_folder(run: str) -> str:
    """A run needs a file system that renames and locks. Raises UsageError for a URL."""
    if "://" in run:
        raise UsageError(f"--run {run}: a run directory is a folder, on a shared disk for several machines; no URL")
    return run


RunOption = Annotated[
    str,
    typer.Option("--run", help="Run directory.", envvar="PAIRSIEVE_RUN", show_default=True, callback=local_folder),
]
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
