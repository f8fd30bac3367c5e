"""`curate compare`."""

from pathlib import Path
from typing import Annotated

import typer

from curate.commands.common import JsonOption, RunOption, print_report
from curate.lines import compare_lines
from curate.run import Run


def compare(
    run: RunOption = "run",
    model: Annotated[str | None, typer.Option(help="The model whose wins are counted.  [default: side 0's]")] = None,
    against: Annotated[
        str | None, typer.Option(help="The model it is compared with.  [default: the other one]")
    ] = None,
    page: Annotated[Path | None, typer.Option(help="HTML page.  [default: RUN/compare.html]")] = None,
    gallery: Annotated[int, typer.Option(help="Pairs that the page shows.", min=0)] = 200,
    as_json: JsonOption = False,
) -> None:
    """Say which of two models wins, by each scorer, with confidence intervals and a page of their pictures.

    Example: curate compare --run run/evaluation
    """
    from curate.stages.compare import compare as run_compare

    report = run_compare(Run(Path(run)), model, against, page, gallery)
    print_report(report, as_json, compare_lines(report))
