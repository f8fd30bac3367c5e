"""`curate export-shards`, `curate export-for` and `curate verify`."""

import os
from pathlib import Path
from typing import Annotated

import typer

from curate.commands.common import JsonOption, RankingOption, RunOption, local_folder, print_report, ranking_name
from curate.storage.run import Run
from schemas.command_line import in_groups

WORKERS = min(4, os.cpu_count() or 1)
ResizeOption = Annotated[int | None, typer.Option(help="Most pixels of an image's shorter side.", min=1)]
ReencodeOption = Annotated[str | None, typer.Option(help="Encode images anew: jpeg:95, webp:90 or png.")]
SplitOption = Annotated[
    str | None, typer.Option(help="NAME=SHARE of the prompts, each its own folder: train=0.95,validation=0.05.")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Print what would be written; write nothing.")]
WorkersOption = Annotated[int, typer.Option(help="Threads; the bytes do not depend on it.", min=1)]


@in_groups({"The pictures": "resize reencode", "The tars": "order seed pairs_per_shard shard_bytes split"})
def export_shards(
    run: RunOption = "run",
    name: RankingOption = "default",
    output: Annotated[
        str | None, typer.Option(help="Folder, URL or hf://datasets/OWNER/NAME.  [default: RUN/shards]")
    ] = None,
    source: Annotated[
        list[str] | None, typer.Option(help="Where the data set's files lie now, if they moved; repeatable.")
    ] = None,
    order: Annotated[str, typer.Option(help="rank, or shuffle by --seed.")] = "rank",
    seed: Annotated[int, typer.Option(help="Of the shuffle.", min=0)] = 0,
    pairs_per_shard: Annotated[int, typer.Option(help="Most samples of one tar.", min=1)] = 1000,
    shard_bytes: Annotated[str | None, typer.Option(help="Most bytes of one tar, such as 500MB.")] = None,
    split: SplitOption = None,
    resize: ResizeOption = None,
    reencode: ReencodeOption = None,
    workers: WorkersOption = WORKERS,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write the selected pairs as WebDataset shards, the source's bytes untouched unless you ask otherwise.

    Example: curate export-shards --name default --output run/shards
    """
    from curate.export import ExportOptions, export_shards as run_export
    from curate.export.encoding import parse_encoding
    from curate.export.order import ShardSize, check_order, parse_bytes, parse_split
    from curate.export.stdout import export_lines

    options = ExportOptions(
        name=ranking_name(name),
        output=output,
        size=ShardSize(pairs_per_shard, None if shard_bytes is None else parse_bytes(shard_bytes)),
        seed=seed if check_order(order) == "shuffle" else None,
        shares=parse_split(split),
        encoding=parse_encoding(resize, reencode),
        workers=workers,
        source=tuple(source or ()),
        dry_run=dry_run,
    )
    report = run_export(Run(Path(run)), options)
    print_report(report, as_json, export_lines(report))


def export_for(
    layout: Annotated[
        str,
        typer.Argument(help="folders, parquet, chosen-rejected, jsonl, flow-factory, or that of an installed package."),
    ],
    run: RunOption = "run",
    name: RankingOption = "default",
    output: Annotated[
        str | None, typer.Option(help="Empty or new folder, or URL.  [default: RUN/exports/NAME-LAYOUT]")
    ] = None,
    split: SplitOption = None,
    resize: ResizeOption = None,
    reencode: ReencodeOption = None,
    workers: WorkersOption = WORKERS,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write the selected pairs in the layout that another trainer reads, best first.

    Example: curate export-for folders --name default --output pairs
    """
    from curate.export import LayoutOptions, export_for as run_export
    from curate.export.encoding import parse_encoding
    from curate.export.order import parse_split
    from curate.export.stdout import layout_lines

    encoding, shares = parse_encoding(resize, reencode), parse_split(split)
    options = LayoutOptions(layout, ranking_name(name), output, shares, encoding, workers, dry_run)
    report = run_export(Run(Path(run)), options)
    print_report(report, as_json, layout_lines(report))


def verify(
    path: Annotated[str, typer.Argument(help="A run directory, or a folder or URL of shards.")],
    run: Annotated[
        str | None,
        typer.Option(
            "--run",
            callback=local_folder,
            help="Run whose ranking the shards must match.  [default: the run they lie in]",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check every hash, count, image and prompt of shards, or every part of a run, and list the faults.

    Example: curate verify run/shards
    """
    from curate.export.stdout import verify_lines
    from curate.export.verify.stage import verify as run_verify

    report = run_verify(path, None if run is None else Run(Path(run)))
    print_report(report, as_json, verify_lines(report))
    if not report["sound"]:
        raise typer.Exit(1)
