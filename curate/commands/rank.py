"""`curate rank`, `curate metrics` and `curate diff`: which pairs, by which metric, and what another would choose."""

from pathlib import Path
from typing import Annotated

import typer

from curate.commands.common import JsonOption, RunOption, print_report, ranking_name
from curate.errors import UsageError
from curate.models.model_set import DEFAULT_SCORERS
from curate.storage.run import Run
from schemas.command_line import PLAIN, Command, Group, in_groups


@in_groups(
    {
        "The metric": "param seed reverse psi_norm prefer",
        "Which pairs are ranked": "where split min_score min_annotator_agreement max_nsfw",
        "Which of them are selected": "max_per_prompt max_per_image max_per_annotator near_duplicates diversity",
    }
)
def rank(
    run: RunOption = "run",
    top: Annotated[str, typer.Option(help="Fraction of the ranked pairs (0.0533), or a count (5000).")] = "0.0533",
    metric: Annotated[
        str, typer.Option(help="A metric that `curate metrics` lists, or a .sql file that returns pair_id, quality.")
    ] = "qsd",
    param: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE of a parameter of the metric; repeatable.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The same as --param seed=N, for the metric random.")] = None,
    reverse: Annotated[bool, typer.Option("--reverse", help="Worst first: the bottom is selected.")] = False,
    psi: Annotated[str, typer.Option(help="One scorer, or a blend: clip=2,pickscore=1.")] = ",".join(DEFAULT_SCORERS),
    psi_norm: Annotated[
        str, typer.Option(help="How scores are brought to [0, 1]: percentile, minmax or raw.")
    ] = "percentile",
    prefer: Annotated[
        str, typer.Option(help="Who prefers: human, or by rule: a scorer, psi, vote or consensus.")
    ] = "human",
    name: Annotated[str, typer.Option(help="Name of the ranking; several live side by side.")] = "default",
    where: Annotated[
        str | None, typer.Option(help="Rank only pairs that meet this SQL condition over pair_facts.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Rank only pairs of this split.")] = None,
    min_score: Annotated[
        list[str] | None, typer.Option(help="SCORER=VALUE that the preferred image must reach; repeatable.")
    ] = None,
    min_annotator_agreement: Annotated[
        float | None, typer.Option(help="Leave out annotators who agree less often with the calibrated score (0.55).")
    ] = None,
    max_nsfw: Annotated[
        float | None, typer.Option(help="Greatest value of every nsfw scorer, of either image.")
    ] = None,
    max_per_prompt: Annotated[int | None, typer.Option(help="Most selected pairs of one prompt.")] = None,
    max_per_image: Annotated[int | None, typer.Option(help="Most selected pairs with one image.")] = None,
    max_per_annotator: Annotated[int | None, typer.Option(help="Most selected pairs of one annotator.")] = None,
    near_duplicates: Annotated[
        float | None, typer.Option(help="Cosine from which prompts count as one for --max-per-prompt (0.95).")
    ] = None,
    diversity: Annotated[
        float | None, typer.Option(help="Weight, 0 to 1, of a prompt's distance to those chosen, against quality.")
    ] = None,
    memory: Annotated[
        str | None, typer.Option(help="Memory of the database before it spills to disk, such as 8GB.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Rank the pairs by a quality metric in SQL and select the top.

    Example: curate rank --top 0.0533 --metric qsd --psi hpsv2
    """
    from curate.rank import RankOptions, rank as run_rank
    from curate.rank.filters import Filters
    from curate.rank.psi import parse_psi
    from curate.rank.selection.selection import Limits
    from curate.rank.stdout import rank_lines

    options = RankOptions(
        psi=parse_psi(psi, psi_norm),
        name=ranking_name(name),
        metric=metric,
        params=(*(param or ()), *(() if seed is None else (f"seed={seed}",))),
        top=top,
        reverse=reverse,
        prefer=prefer,
        filters=Filters(where, split, _minimum_scores(min_score or []), min_annotator_agreement, max_nsfw),
        limits=Limits(max_per_prompt, max_per_image, max_per_annotator, near_duplicates, diversity),
        memory=memory,
    )
    report = run_rank(Run(Path(run)), options)
    print_report(report, as_json, rank_lines(report, run))


def _minimum_scores(terms: list[str]) -> dict[str, float]:
    found = {}
    for term in terms:
        scorer, _, value = term.partition("=")
        if scorer in found:
            raise UsageError(f"--min-score {term}: '{scorer}' is given twice")
        try:
            found[scorer] = float(value)
        except ValueError as error:
            raise UsageError(f"--min-score {term}: write SCORER=VALUE, such as clip=0.2") from error
    return found


metrics_app = typer.Typer(
    cls=Group,
    help="List the metrics that `curate rank` ships, or check one of your own.\n\nExample: curate metrics",
    **PLAIN,
)


@metrics_app.callback(invoke_without_command=True)
def metrics(context: typer.Context, as_json: JsonOption = False) -> None:
    """List the shipped metrics with their source and parameters.

    Example: curate metrics
    """
    if context.invoked_subcommand is not None:
        return
    from curate.rank.check import list_metrics
    from curate.rank.stdout import metrics_lines

    found = list_metrics()
    print_report({"metrics": found}, as_json, metrics_lines(found))


@metrics_app.command(cls=Command, short_help="Run a metric of your own on a run and say what it does.")
def check(
    file: Annotated[str, typer.Argument(help="A .sql file that returns pair_id, quality.")],
    run: RunOption = "run",
    param: Annotated[list[str] | None, typer.Option(help="NAME=VALUE of a parameter; repeatable.")] = None,
    psi: Annotated[str, typer.Option(help="One scorer, or a blend: clip=2,pickscore=1.")] = ",".join(DEFAULT_SCORERS),
    psi_norm: Annotated[str, typer.Option(help="percentile, minmax or raw.")] = "percentile",
    as_json: JsonOption = False,
) -> None:
    """Run a metric on a run: columns, nulls, ties, range, and how like the shipped metrics it ranks.

    Example: curate metrics check my_metric.sql
    """
    from curate.rank.check import check_metric
    from curate.rank.psi import parse_psi
    from curate.rank.stdout import check_lines

    report = check_metric(Run(Path(run)), file, tuple(param or ()), parse_psi(psi, psi_norm))
    print_report(report, as_json, check_lines(report))


def diff(
    one: Annotated[str, typer.Argument(help="Name of a ranking.")],
    two: Annotated[str, typer.Argument(help="Name of another.")],
    run: RunOption = "run",
    moved: Annotated[int, typer.Option(help="How many of the pairs that moved most to show.", min=0)] = 10,
    as_json: JsonOption = False,
) -> None:
    """Say how two rankings differ: what both select, their rank correlation, the pairs that moved most.

    Example: curate diff default paper
    """
    from curate.rank.diff import diff as run_diff
    from curate.rank.stdout import diff_lines

    report = run_diff(Run(Path(run)), ranking_name(one), ranking_name(two), moved)
    print_report(report, as_json, diff_lines(report))
