"""`curate embed`, `curate status` and `curate fetch`."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from curate.commands.common import JsonOption, RunOption, RunOrUrlOption, print_report
from curate.embed.stdout import embed_lines, fetch_lines, parity_lines, status_lines
from curate.errors import UsageError
from curate.models.model_set import DEFAULT_SCORERS, load_model_set
from curate.sources.manifest import DEMO, Manifest, load_manifest
from curate.storage.run import Run, run_at
from curate.terminal.progress import say

if TYPE_CHECKING:
    from curate.embed.device.pipeline import EmbedOptions
    from curate.embed.engines.workers import Place
    from curate.models.scoring import UnloadedScoring
    from curate.sources.parquet import Source


def embed(
    run: RunOrUrlOption = "run",
    manifest: Annotated[str, typer.Option(help="Data set: a bundled name, or a TOML file.")] = DEMO,
    source: Annotated[
        list[str] | None, typer.Option(help="Path, glob or URL instead of the manifest's files; repeatable.")
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
    from curate.embed.engines.workers import workplace
    from curate.embed.parity import measure_parity
    from curate.embed.stage import embed as run_embed
    from curate.embed.stage import source_settings
    from curate.models.scoring import UnloadedScoring
    from curate.models.towers.precision import device_is_here
    from curate.sources.parquet import open_source

    if calibrate is not None and not dry_run:
        raise UsageError("--calibrate belongs to --dry-run: a run says how fast it is as it goes")
    here = run_at(run)
    described = _manifest(manifest)
    opened = open_source(described, split, source)
    model_set = load_model_set(models or described.models or "published")
    chosen = model_set.choose([name.strip() for name in scorers.split(",") if name.strip()])
    only = _part_range(part_range)
    with workplace(engine, address, device, workers, precision) as place:
        options = _options(place, batch, part_images, part_bytes, decode, decode_processes, compiled)
        if engine == "ray" and (parity or calibrate) and not device_is_here(options.device):
            raise UsageError("--parity and --calibrate compute in this process, which has no GPU; use --device cpu")
        to_load = UnloadedScoring(model_set, tuple(chosen), options.precision)
        if dry_run:
            return print_report(_dry_run(opened, to_load, options, calibrate), as_json)
        here.refuse_other(source_settings(opened, options))  # before minutes go into loading weights
        say(f"models '{model_set.name}', scorers {', '.join(to_load.names)}, on {place.words}")
        summary = run_embed(here, opened, to_load, options, place.engine, only)
        lines = embed_lines(summary)
        if parity is not None:
            summary["parity"] = measure_parity(here, opened, model_set, chosen, options, parity)
            lines += parity_lines(summary["parity"])
    print_report(summary, as_json, lines)


def _dry_run(
    source: "Source", scorers: "UnloadedScoring", options: "EmbedOptions", calibrate_sec: int | None
) -> dict[str, Any]:
    """Settings, counts and costs; with `calibrate_sec` the weights are loaded, and the time to expect is measured."""
    from curate.embed.dry_run import expected_time, total_tflop, tower_gflop
    from curate.embed.planning.plan import make_plan

    settings = {
        "manifest": source.manifest.settings(),
        "split": source.split,
        "files": list(source.files),
        "models": scorers.model_set.name,
        "scorers": scorers.names,
    }
    plan = make_plan(source, options.part_images, options.part_bytes)
    gflop = tower_gflop(scorers.model_set, list(scorers.specs))
    costs: dict[str, Any] = {"gflop": gflop, "total_tflop": total_tflop(plan, gflop)}
    if calibrate_sec is not None:
        costs["expected"] = expected_time(source, plan, scorers.on(options.device), options, calibrate_sec)
    return settings | plan.counts() | costs


def _options(
    place: "Place",
    batch: str,
    part_images: int,
    part_bytes: int,
    decode: str,
    decode_processes: int | None,
    compiled: bool,
) -> "EmbedOptions":
    """Raises: UsageError for a batch or a way to decode that is none, or that the device does not have."""
    from curate.embed.decode.decoders import check_decode
    from curate.embed.device.batch_size import parse_batch
    from curate.embed.device.pipeline import EmbedOptions, default_decode_processes

    check_decode(decode, place.device)
    if decode == "nvjpeg" and decode_processes:
        raise UsageError("--decode nvjpeg decodes in the towers' own process; leave out --decode-processes")
    if decode_processes is None:
        decode_processes = default_decode_processes(place.device, decode, place.threads)
    return EmbedOptions(
        place.device,
        place.precision,
        parse_batch(batch),
        part_images,
        decode_threads=place.threads,
        decode_processes=decode_processes,
        part_bytes=part_bytes,
        decode=decode,
        compiled=compiled,
    )


def _part_range(text: str | None) -> range | None:
    """`a:b` as a range. Raises UsageError."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+):(\d+)", text)
    if found is None or int(found[1]) >= int(found[2]):
        raise UsageError(f"--part-range {text}: give A:B with A below B: parts A to B - 1, counted from 0")
    return range(int(found[1]), int(found[2]))


def _manifest(name: str) -> Manifest:
    if name == DEMO:
        say("data set: the bundled demo, a miniature world of coloured shapes (--manifest names another)")
    return load_manifest(name)


def status(run: RunOrUrlOption = "run", as_json: JsonOption = False) -> None:
    """Say whether a run is running, finished or stopped, how far it is, and how fast.

    Example: curate status --run run
    """
    from curate.embed.status import status as run_status

    report = run_status(run_at(run))
    print_report(report, as_json, status_lines(report))


def fetch(
    url: Annotated[str, typer.Argument(help="URL that `curate embed --run URL` wrote to.")],
    run: RunOption = "run",
    as_json: JsonOption = False,
) -> None:
    """Bring an embedded run from a URL to a folder, each file checked by its sha256.

    Example: curate fetch s3://bucket/pickapic --run pickapic
    """
    from curate.embed.fetch import fetch as run_fetch

    report = run_fetch(url, Run(Path(run)))
    print_report(report, as_json, fetch_lines(report))
