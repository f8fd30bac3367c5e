"""`curate review`."""

from pathlib import Path
from typing import Annotated

import typer

from curate.commands.common import JsonOption, RunOption, print_report
from curate.errors import UsageError
from curate.storage.run import Run


def review(
    run: RunOption = "run",
    reviewer: Annotated[str | None, typer.Option(help="Who judges; needed but for --report.")] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="A model whose pictures are shown; repeatable.  [default: all]")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Pairs to judge, the first of the order by seed.  [default: all]", min=1)
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides order and sides.", min=0)] = 0,
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.", min=0, max=65535)] = 8766,
    host: Annotated[
        str, typer.Option(help="Another address lets other machines in, unencrypted, by the token in what is printed.")
    ] = "127.0.0.1",
    guidance: Annotated[
        str | None, typer.Option(help="What judges are told to look at.  [default: words first, then looks]")
    ] = None,
    report: Annotated[
        bool, typer.Option("--report", help="Serve nothing: agreement, who wins, and the data set.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Judge pairs of pictures blind on a page of this machine, by keys, and keep the judgements as a data set.

    Example: curate review --run run/evaluation --reviewer anna --limit 100
    """
    from curate.review import ReviewOptions, review as run_review
    from curate.review.report import review_report
    from curate.review.stdout import review_lines, reviewed_lines

    if report:
        found = review_report(Run(Path(run)))
        print_report(found, as_json, reviewed_lines(found))
        return
    if reviewer is None:
        raise UsageError("--reviewer: say who judges, so that several people's judgements stay apart")
    options = ReviewOptions(reviewer, tuple(model or ()), limit, seed, port, host, guidance, as_json)
    done = run_review(Run(Path(run)), options)
    print_report(done, as_json, review_lines(done))
