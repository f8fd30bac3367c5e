"""`curate export-shards`."""

from pathlib import Path
from typing import Annotated

import typer

from curate.commands.common import JsonOption, RunOption, print_report, ranking_name
from curate.run import Run


def export_shards(
    run: RunOption = "run",
    name: Annotated[str, typer.Option(help="Which ranking.")] = "default",
    output: Annotated[
        Path | None, typer.Option(help="Folder for the tars and shards.json.  [default: RUN/shards]")
    ] = None,
    pairs_per_shard: Annotated[int, typer.Option(help="Samples of one tar.", min=1)] = 1000,
    as_json: JsonOption = False,
) -> None:
    """Write the selected pairs as WebDataset shards, the source's bytes untouched.

    Example: curate export-shards --name default --output run/shards
    """
    from curate.stages.export_shards import export_shards as run_export

    folder = output or Path(run) / "shards"
    index = run_export(Run(Path(run)), ranking_name(name), folder, pairs_per_shard)
    size_mb = sum(entry["bytes"] for entry in index["shards"]) / 1e6
    lines = [f"written  {index['pairs']:,} pairs in {len(index['shards'])} shards, {size_mb:,.1f} MB: {folder}"]
    print_report(index, as_json, lines)
