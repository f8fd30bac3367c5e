"""`curate fetch`."""

from pathlib import Path
from typing import Annotated

import typer

from curate.commands.common import JsonOption, RunOption, print_report
from curate.storage.run import Run
from curate.terminal.text import fetch_lines


def fetch(
    url: Annotated[str, typer.Argument(help="URL that `curate embed --run URL` wrote to.")],
    run: RunOption = "run",
    as_json: JsonOption = False,
) -> None:
    """Bring an embedded run from a URL to a folder, each file checked by its sha256.

    Example: curate fetch s3://bucket/pickapic --run pickapic
    """
    from curate.embed.fetch import fetch as run_fetch

    report = run_fetch(url, Run(Path(run)))
    print_report(report, as_json, fetch_lines(report))
