"""`curate sql`, `search`, `report` and `browse`: what is in a run."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from curate.commands.common import JsonOption, RunOption, print_report, ranking_name
from curate.errors import UsageError
from curate.storage.run import Run
from curate.terminal.text import json_text, report_lines, search_lines


def sql(
    query: Annotated[
        str | None, typer.Argument(help="SQL over the run's views.  [default: a prompt, or what a pipe brings]")
    ] = None,
    run: RunOption = "run",
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    as_json: JsonOption = False,
    parquet: Annotated[Path | None, typer.Option(help="Write the result to this Parquet file.")] = None,
) -> None:
    """Query the run's tables (pairs, images, prompts, scores, dropped, pair_scores, ranking) read-only, or at a prompt.

    Example: curate sql "select stage, count(*) from dropped group by stage"
    """
    from curate.ask.query import query as run_query

    forms = csv + as_json + (parquet is not None)
    if forms > 1:
        raise UsageError("give one of --csv, --json and --parquet")
    if query is None and sys.stdin.isatty():
        from curate.ask.shell import interact

        if forms:
            raise UsageError("--csv, --json and --parquet need a query")
        return interact(Run(Path(run)), sys.stdout)
    query = sys.stdin.read() if query is None else query
    run_query(Run(Path(run)), query, "csv" if csv else "json" if as_json else "table", sys.stdout, parquet)


def search(
    text: Annotated[str, typer.Argument(help="What the prompts should be like.")],
    run: RunOption = "run",
    name: Annotated[str, typer.Option(help="Which ranking.")] = "default",
    limit: Annotated[int, typer.Option(help="Most prompts, or pairs, that are shown.", min=1)] = 10,
    pairs: Annotated[bool, typer.Option("--pairs", help="List the pairs instead of the prompts.")] = False,
    tower: Annotated[str | None, typer.Option(help="Whose embeddings.  [default: clip, else the run's first]")] = None,
    models: Annotated[
        str | None, typer.Option(help="Set of models: a bundled name, or a TOML file.  [default: the run's]")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Find the prompts, and their pairs, that are most like a text by the embeddings of one of the run's towers.

    Example: curate search "a red fox" --limit 5
    """
    from curate.ask.search import search as run_search

    found = run_search(Run(Path(run)), text, tower, ranking_name(name), models, limit, pairs)
    typer.echo(json_text(found) if as_json else "\n".join(search_lines(found)))


def report(
    run: RunOption = "run",
    name: Annotated[str, typer.Option(help="Which ranking.")] = "default",
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
    from curate.report.stage import report as run_report

    written = run_report(Run(Path(run)), ranking_name(name), page, png, gallery)
    print_report(written, as_json, report_lines(written))


def browse(
    run: RunOption = "run",
    name: Annotated[str, typer.Option(help="Which ranking.")] = "default",
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0 takes a free one.", min=0, max=65535)] = 8765,
) -> None:
    """Serve the page of a ranking on this machine, with every pair in its gallery, until Ctrl-C.

    Example: curate browse --name default
    """
    from curate.report.browse import browse as run_browse

    run_browse(Run(Path(run)), ranking_name(name), port)
