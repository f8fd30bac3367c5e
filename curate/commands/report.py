"""`curate report` and `curate browse`."""

from pathlib import Path
from typing import Annotated

import typer

from curate.commands.common import JsonOption, RankingOption, RunOption, print_report, ranking_name
from curate.storage.run import Run


def report(
    run: RunOption = "run",
    name: RankingOption = "default",
    page: Annotated[
        Path | None, typer.Option(help="HTML page.  [default: RUN/report.html, or RUN/report-NAME.html]")
    ] = None,
    png: Annotated[bool, typer.Option("--png", help="Write the charts as one picture, too.")] = False,
    gallery: Annotated[int, typer.Option(help="Pairs that the page shows.", min=0)] = 300,
    as_json: JsonOption = False,
) -> None:
    """Write one HTML page about a ranking: counts, distributions, agreement with humans, a gallery.

    Example: curate report --name default --png
    """
    from curate.report import ReportOptions, report as run_report
    from curate.report.stdout import report_lines

    written = run_report(Run(Path(run)), ReportOptions(ranking_name(name), page, png, gallery))
    print_report(written, as_json, report_lines(written))


def browse(
    run: RunOption = "run",
    name: RankingOption = "default",
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0 takes a free one.", min=0, max=65535)] = 8765,
) -> None:
    """Serve the page of a ranking on this machine, with every pair in its gallery, until Ctrl-C.

    Example: curate browse --name default
    """
    from curate.report.browse import browse as run_browse

    run_browse(Run(Path(run)), ranking_name(name), port)
