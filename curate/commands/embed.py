"""`curate embed`."""

import re
from pathlib import Path
from typing import Annotated

import typer

from curate.commands.common import JsonOption, RunOption, print_report
from curate.errors import UsageError
from curate.lines import embed_lines
from curate.manifest import DEMO, Manifest, load_manifest
from curate.model_set import DEFAULT_SCORERS, load_model_set
from curate.progress import say
from curate.run import Run


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
    device: Annotated[str, typer.Option(help="auto (every CUDA device, else the CPU), cpu, cuda or cuda:N.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")] = "auto",
    batch: Annotated[int, typer.Option(help="Images of one forward pass.", min=1)] = 64,
    part_images: Annotated[int, typer.Option(help="Images of one part, the unit of resuming, at most.", min=1)] = 4096,
    part_bytes: Annotated[int, typer.Option(help="Bytes of one part's encoded images.", min=1)] = 256_000_000,
    part_range: Annotated[
        str | None,
        typer.Option(help="Compute parts A to B - 1 only, as A:B, beside other processes that do the others."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Worker processes.  [default: one for each device]", min=1)
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
    from curate.plan import make_plan
    from curate.source import open_source

    described = _manifest(manifest)
    opened = open_source(described, split, source)
    model_set = load_model_set(models or described.models or "published")
    chosen = model_set.choose([name.strip() for name in scorers.split(",") if name.strip()])
    only = _part_range(part_range)
    if dry_run:
        settings = {
            "manifest": described.settings(),
            "split": opened.split,
            "files": list(opened.files),
            "models": model_set.name,
            "scorers": [spec.name for spec in chosen],
        }
        print_report(settings | make_plan(opened, part_images, part_bytes).counts(), as_json)
        return

    from curate.engines.place import workplace
    from curate.pipeline import EmbedOptions
    from curate.scoring import UnloadedScoring
    from curate.stages.embed import embed as run_embed
    from curate.stages.embed import source_settings

    with workplace(engine, address, device, workers, precision) as place:
        options = EmbedOptions(
            place.device,
            place.precision,
            batch,
            part_images,
            decode_threads=place.threads,
            part_bytes=part_bytes,
        )
        Run(Path(run)).refuse_other(source_settings(opened, options))  # before minutes go into loading weights
        names = ", ".join(spec.name for spec in chosen)
        say(f"models '{model_set.name}', scorers {names}, on {place.words}")
        scoring = UnloadedScoring(model_set, tuple(chosen), options.precision)
        summary = run_embed(Run(Path(run)), opened, scoring, options, place.engine, only)
    print_report(summary, as_json, embed_lines(summary))


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
