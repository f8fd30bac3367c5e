"""`curate inspect`: what a file or folder is, before anything is scored."""

from pathlib import Path
from typing import Annotated

import typer

from curate.commands.common import JsonOption, print_report


def inspect(
    source: Annotated[str, typer.Argument(help="File, folder, glob or URL.")],
    write: Annotated[Path | None, typer.Option(help="Write a manifest to begin with to this file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what a data set is: its rows, columns and pictures, and which shipped manifest reads it.

    Example: curate inspect train.jsonl --write my_pairs.toml
    """
    from curate.inspect import inspect as run_inspect
    from curate.inspect.stdout import inspect_lines

    found = run_inspect(source, write)
    print_report(found, as_json, inspect_lines(found))
