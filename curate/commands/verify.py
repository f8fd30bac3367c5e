"""`curate verify`."""

from pathlib import Path
from typing import Annotated

import typer

from curate.commands.common import JsonOption, local_folder, print_report
from curate.storage.run import Run
from curate.terminal.text import verify_lines


def verify(
    path: Annotated[str, typer.Argument(help="A run directory, or a folder or URL of shards.")],
    run: Annotated[
        str | None,
        typer.Option(
            "--run",
            callback=local_folder,
            help="Run whose ranking the shards must match.  [default: the run they lie in]",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check every hash, count, image and prompt of shards, or every part of a run, and list the faults.

    Example: curate verify run/shards
    """
    from curate.export.verify.stage import verify as run_verify

    report = run_verify(path, None if run is None else Run(Path(run)))
    print_report(report, as_json, verify_lines(report))
    if not report["sound"]:
        raise typer.Exit(1)
