"""`curate compare`."""

from pathlib import Path
from typing import Annotated

import typer

from curate.commands.common import JsonOption, RunOption, print_report
from curate.storage.run import Run


def compare(
    run: RunOption = "run",
    model: Annotated[list[str] | None, typer.Option(help="A model to compare; repeatable.  [default: all]")] = None,
    against: Annotated[
        str | None,
        typer.Option(help="The model that others are measured by.  [default: their base, else the last]"),
    ] = None,
    page: Annotated[Path | None, typer.Option(help="HTML page.  [default: RUN/compare.html]")] = None,
    gallery: Annotated[int, typer.Option(help="Prompts that the page shows pictures of.", min=0)] = 2000,
    tie_band: Annotated[
        float,
        typer.Option(help="A smaller difference is a tie, in units of what another seed changes; 0: none is.", min=0),
    ] = 0.2,
    csv: Annotated[Path | None, typer.Option(help="Write every win rate, by category too, to this CSV.")] = None,
    latex: Annotated[Path | None, typer.Option(help="Write a LaTeX table of means and win rates.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Say which of two or more models wins, by each scorer, with confidence intervals and a page of their pictures.

    Example: curate compare --run run/evaluation --latex table.tex
    """
    from curate.compare import CompareOptions, compare as run_compare
    from curate.compare.csv_and_latex import csv_text, latex_text
    from curate.compare.stdout import compare_lines
    from curate.storage.tables import write_text

    report = run_compare(Run(Path(run)), CompareOptions(tuple(model or ()), against, page, gallery, tie_band))
    for path, form in ((csv, csv_text), (latex, latex_text)):
        if path is not None:
            write_text(form(report), path)
    print_report(report, as_json, compare_lines(report))
