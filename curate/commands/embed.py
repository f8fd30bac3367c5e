"""`curate embed`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from curate.commands.common import JsonOption, RunOption, print_report
from curate.errors import UsageError
from curate.lines import embed_lines, parity_lines
from curate.manifest import DEMO, Manifest, load_manifest
from curate.model_set import DEFAULT_SCORERS, load_model_set
from curate.progress import say
from curate.run import Run

if TYPE_CHECKING:
    from curate.pipeline import EmbedOptions


def embed(
    run: RunOption = "run",
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
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
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
    part_images: Annotated[int, typer.Option(help="Images of one part, the unit of resuming.", min=1)] = 1024,
    decode_processes: Annotated[
        int | None,
        typer.Option(help="Processes that decode; 0: threads.  [default: 0 on the CPU, a GPU's cores on CUDA]", min=0),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print settings and counts; compute nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Score every image and prompt of a data set once, and write the run's tables.

    Example: curate embed --manifest pickapic_v2 --source 'train-*.parquet'
    """
    from curate.plan import make_plan
    from curate.scoring import load_scoring
    from curate.source import open_source
    from curate.stages.calibrate import expected_time, total_tflop, tower_gflop

    if calibrate is not None and not dry_run:
        raise UsageError("--calibrate belongs to --dry-run: a run says how fast it is as it goes")
    described = _manifest(manifest)
    opened = open_source(described, split, source)
    model_set = load_model_set(models or described.models or "published")
    chosen = model_set.choose([name.strip() for name in scorers.split(",") if name.strip()])
    if dry_run:
        settings = {
            "manifest": described.settings(),
            "split": opened.split,
            "files": list(opened.files),
            "models": model_set.name,
            "scorers": [spec.name for spec in chosen],
        }
        plan = make_plan(opened, part_images)
        gflop = tower_gflop(model_set, chosen)
        costs: dict[str, Any] = {"gflop": gflop, "total_tflop": total_tflop(plan, gflop)}
        if calibrate is not None:
            options = _options(device, precision, batch, part_images, decode_processes, decode, compiled)
            scoring = load_scoring(model_set, chosen, options.device, options.precision)
            costs["expected"] = expected_time(opened, plan, scoring, options, calibrate)
        print_report(settings | plan.counts() | costs, as_json)
        return

    from curate.stages.embed import embed as run_embed
    from curate.stages.embed import source_settings
    from curate.stages.parity import measure_parity
    from curate.towers.precision import describe_device

    options = _options(device, precision, batch, part_images, decode_processes, decode, compiled)
    Run(Path(run)).refuse_other(source_settings(opened, options))  # before minutes go into loading weights
    names = ", ".join(spec.name for spec in chosen)
    say(f"models '{model_set.name}', scorers {names}, on {describe_device(options.device, options.precision)}")
    scoring = load_scoring(model_set, chosen, options.device, options.precision)
    summary = run_embed(Run(Path(run)), opened, scoring, options)
    lines = embed_lines(summary)
    if parity is not None:
        summary["parity"] = measure_parity(Run(Path(run)), opened, model_set, chosen, options, parity)
        lines += parity_lines(summary["parity"])
    print_report(summary, as_json, lines)


def _options(
    device: str,
    precision: str,
    batch: str,
    part_images: int,
    decode_processes: int | None,
    decode: str,
    compiled: bool,
) -> "EmbedOptions":
    from curate.batches import parse_batch
    from curate.decoders import check_decode
    from curate.pipeline import EmbedOptions, default_decode_processes
    from curate.towers.precision import choose_device, choose_precision

    on = choose_device(device)
    check_decode(decode, on)
    return EmbedOptions(
        on,
        choose_precision(precision, on),
        parse_batch(batch),
        part_images,
        decode_processes=default_decode_processes(on) if decode_processes is None else decode_processes,
        decode=decode,
        compiled=compiled,
    )


def _manifest(name: str) -> Manifest:
    if name == DEMO:
        say("data set: the bundled demo, a miniature world of coloured shapes (--manifest names another)")
    return load_manifest(name)
