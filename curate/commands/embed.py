"""`curate embed`, `curate status` and `curate fetch`."""

import re
from pathlib import Path
from typing import Annotated

import typer

from curate.commands.common import RUN_DIRECTORY, JsonOption, RunOrUrlOption, local_folder, print_report
from curate.errors import UsageError
from curate.models.model_set import DEFAULT_SCORERS
from curate.sources.manifest import DEMO
from curate.storage.run import Run, run_at
from schemas.command_line import in_groups


@in_groups(
    {
        "Sets in other layouts": "unpack dimension split",
        "Speed and precision": "device precision batch compiled decode decode_processes parity calibrate",
        "Sharing the work": "part_images part_bytes part_range workers engine address",
    }
)
def embed(
    run: Annotated[str, typer.Option("--run", help="Run directory, or its URL.", **RUN_DIRECTORY)] = "run",
    manifest: Annotated[str, typer.Option(help="Data set: a bundled name, or a TOML file.")] = DEMO,
    source: Annotated[
        list[str] | None, typer.Option(help="File, folder, glob or URL instead of the manifest's files; repeatable.")
    ] = None,
    images: Annotated[
        list[str] | None,
        typer.Option(help="Folder, URL, zip or tar where relative paths of pictures start; repeatable."),
    ] = None,
    unpack: Annotated[
        Path | None, typer.Option(help="Folder where compressed or split archives are unpacked, once.")
    ] = None,
    dimension: Annotated[
        str | None, typer.Option(help="Of several questions about a pair, the one that counts.  [default: their mean]")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split of the manifest.  [default: the manifest's]")] = None,
    models: Annotated[
        str | None,
        typer.Option(help="Set of models: a bundled name, or a TOML file.  [default: the manifest's, else published]"),
    ] = None,
    scorers: Annotated[str, typer.Option(help="Scorers, by name, with commas.")] = ",".join(DEFAULT_SCORERS),
    device: Annotated[str, typer.Option(help="auto (every CUDA device, else the CPU), cpu, cuda or cuda:N.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")] = "auto",
    batch: Annotated[
        str, typer.Option(help="Images of one forward pass; auto: as many as is fast on a GPU, 64 on the CPU.")
    ] = "auto",
    compiled: Annotated[
        bool, typer.Option("--compile", help="Compile the towers by torch.compile: a minute or so, then faster.")
    ] = False,
    decode: Annotated[
        str, typer.Option(help="pillow; scaled: JPEGs at reduced size; nvjpeg: JPEGs on the GPU.")
    ] = "pillow",
    decode_processes: Annotated[
        int | None,
        typer.Option(help="Processes that decode; 0: threads.  [default: 0 on the CPU, a GPU's cores on CUDA]", min=0),
    ] = None,
    part_images: Annotated[int, typer.Option(help="Images of one part, the unit of resuming, at most.", min=1)] = 4096,
    part_bytes: Annotated[int, typer.Option(help="Bytes of one part's encoded images.", min=1)] = 256_000_000,
    part_range: Annotated[
        str | None,
        typer.Option(help="Compute parts A to B - 1 only, as A:B, beside other processes that do the others."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Worker processes.  [default: one for each device]", min=1)
    ] = None,
    parity: Annotated[
        int | None, typer.Option(help="Score this many images in float32 too, and print what differs.", min=2)
    ] = None,
    calibrate: Annotated[
        int | None,
        typer.Option(
            help="With --dry-run: load the weights, measure for this many seconds, print the time to expect.",
            min=1,
            max=30,
        ),
    ] = None,
    engine: Annotated[str, typer.Option(help="local (this machine) or ray (a Ray cluster).")] = "local",
    address: Annotated[
        str | None, typer.Option(help="Address of the Ray cluster.  [default: RAY_ADDRESS, else this machine]")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print settings and counts; compute nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Score every image and prompt of a data set once, and write the run's tables.

    Example: curate embed --manifest pickapic_v2 --source 'train-*.parquet'
    """
    from curate.embed import EmbedOptions, embed as run_embed
    from curate.embed.dry_run import dry_run as run_dry
    from curate.embed.options import parse_batch
    from curate.embed.stdout import embed_lines

    if calibrate is not None and not dry_run:
        raise UsageError("--calibrate belongs to --dry-run: a run says how fast it is as it goes")
    here = run_at(run)
    named = tuple(name.strip() for name in scorers.split(",") if name.strip())
    options = EmbedOptions(
        manifest=manifest, source=tuple(source or ()), images=tuple(images or ()), unpack=unpack,
        dimension=dimension, split=split, models=models, scorers=named, device=device,
        precision=precision, batch_images=parse_batch(batch), compiled=compiled, decode=decode,
        decode_processes=decode_processes, part_images=part_images, part_bytes=part_bytes,
        part_range=_part_range(part_range), workers=workers, engine=engine, address=address, parity=parity,
    )  # fmt: skip
    if dry_run:
        return print_report(run_dry(options, calibrate), as_json)
    summary = run_embed(here, options)
    print_report(summary, as_json, embed_lines(summary))


def _part_range(text: str | None) -> range | None:
    """`a:b` as a range. Raises UsageError."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+):(\d+)", text)
    if found is None or int(found[1]) >= int(found[2]):
        raise UsageError(f"--part-range {text}: give A:B with A below B: parts A to B - 1, counted from 0")
    return range(int(found[1]), int(found[2]))


def status(run: RunOrUrlOption = "run", as_json: JsonOption = False) -> None:
    """Say whether a run is running, finished or stopped, how far it is, and how fast.

    Example: curate status --run run
    """
    from curate.embed.status import status as run_status
    from curate.embed.stdout import status_lines

    report = run_status(run_at(run))
    print_report(report, as_json, status_lines(report))


def fetch(
    url: Annotated[str, typer.Argument(help="URL that `curate embed --run URL` wrote to.")],
    run: Annotated[str, typer.Option("--run", help="Run directory.", callback=local_folder, **RUN_DIRECTORY)] = "run",
    as_json: JsonOption = False,
) -> None:
    """Bring an embedded run from a URL to a folder, each file checked by its sha256.

    Example: curate fetch s3://bucket/pickapic --run pickapic
    """
    from curate.embed.fetch import fetch as run_fetch
    from curate.embed.stdout import fetch_lines

    report = run_fetch(url, Run(Path(run)))
    print_report(report, as_json, fetch_lines(report))
