"""`curate sql` and `curate search`: what is in a run."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from curate.commands.common import JsonOption, RankingOption, RunOption, ranking_name
from curate.errors import UsageError
from curate.storage.run import Run
from curate.terminal.text import json_text


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
    run_query(
        Run(Path(run)),
        _piped() if query is None else query,
        "csv" if csv else "json" if as_json else "table",
        sys.stdout,
        parquet,
    )


def _piped() -> str:
    """The query that a pipe brings. Raises: UsageError for none, or one that is no UTF-8."""
    try:
        query = sys.stdin.read()
        query.encode()  # where the locale is C, bytes that are no UTF-8 are read as halves of characters
    except UnicodeError as error:
        raise UsageError(f"the query on standard input is not UTF-8 text: {error}") from error
    if not query.strip():
        raise UsageError('no query was given; write one, such as "from pairs limit 5", or bring it by a pipe')
    return query


def search(
    text: Annotated[str, typer.Argument(help="What the prompts should be like.")],
    run: RunOption = "run",
    name: RankingOption = "default",
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
    from curate.ask.stdout import search_lines

    found = run_search(Run(Path(run)), text, tower, ranking_name(name), models, limit, pairs)
    typer.echo(json_text(found) if as_json else "\n".join(search_lines(found)))
