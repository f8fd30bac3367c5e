"""`curate sql`, `search` and `show`: what is in a run; `score`: what its models say of other pictures."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from curate.commands.common import JsonOption, RankingOption, RunOption, print_report, ranking_name
from curate.errors import UsageError
from curate.models.model_set import DEFAULT_SCORERS
from curate.storage.run import Run
from curate.terminal.text import json_text, one_line


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


def show(
    uid: Annotated[str, typer.Argument(help="Id of a pair, or of an image.")],
    run: RunOption = "run",
    png: Annotated[Path | None, typer.Option(help="Write the pictures, side by side, to this file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show a pair or an image: its pictures, scores, ranks, and why it was selected or left out.

    Example: curate show 1f9a0c6a5e21b7d4
    """
    from curate.ask.show import pictures, show as run_show
    from curate.ask.stdout import show_lines
    from curate.storage.tables import atomic_path

    here = Run(Path(run))
    found = run_show(here, uid)
    on_terminal = sys.stdout.isatty() and not as_json
    picture = pictures(here, found) if png is not None or on_terminal else None
    if png is not None and picture is not None:
        with atomic_path(png) as temporary:
            picture.save(temporary, "PNG")
    if on_terminal and picture is not None:
        from rich.console import Console

        from curate.terminal.pictures import draw

        draw(Console(), picture)
    print_report(found, as_json, show_lines(found))


def score(
    image: Annotated[list[Path], typer.Option(help="A picture, or a folder of them; repeatable.")],
    prompt: Annotated[list[str], typer.Option(help="A text; each picture is scored with each; repeatable.")],
    models: Annotated[str, typer.Option(help="Set of models: a bundled name, or a TOML file.")] = "published",
    scorers: Annotated[str, typer.Option(help="Scorers, by name, with commas.")] = ",".join(DEFAULT_SCORERS),
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    as_json: JsonOption = False,
) -> None:
    """Score pictures of your own with prompts of your own, by the models and preprocessing of `curate embed`.

    Example: curate score --image picture.png --prompt "a red fox" --models demo
    """
    from curate.score import score as run_score

    named = [name.strip() for name in scorers.split(",") if name.strip()]
    rows = run_score(image, prompt, models, named, device)
    typer.echo(json_text(rows) if as_json else "\n".join(map(_score_line, rows)))


def _score_line(row: dict[str, Any]) -> str:
    if "reason" in row:
        return f"{row['image']}: {row['reason']} ({row['detail']})"
    scores = ", ".join(
        f"{name.removesuffix('_score')} {value:.5g}" for name, value in row.items() if name.endswith("_score")
    )
    return f"{row['image']}: {scores}  {one_line(row['prompt'])}"
