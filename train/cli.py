"""The `train` command: parse, call, report. Loads no torch until a command runs."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from schemas.command_line import Command, command_line, in_groups
from train.config import flat
from train.errors import TrainError

app = command_line("Train a text-to-image model on preference pairs, and draw with it beside its base.")

Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON document.")]


def main() -> None:
    """Entry point: an expected failure becomes one sentence on stderr and an exit code."""
    # Before torch loads: its waiting CPU threads sleep instead of spin. Where other work shares the cores,
    # spinning made small models ten times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app(prog_name="train")
    except TrainError as error:  # the one place where an expected failure becomes text
        typer.echo(f"train: {error}", err=True)
        sys.exit(error.exit_code)


@app.command(cls=Command)
@in_groups(
    {
        "The recipe": "config steps batch_pairs lr objective beta lora_rank seed",
        "Where files lie": "shard_store cache no_cache single_file",
    }
)
def run(
    shards: Annotated[
        str | None, typer.Option(help="Folder or URL with shards.json and its tars; run/shards if absent.")
    ] = None,
    shard_store: Annotated[
        Path | None, typer.Option(help="Where shards at a URL are fetched to, a folder each; run if absent.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Pipeline folder or hub id; the preset's own if absent.")] = None,
    preset: Annotated[
        str | None,
        typer.Option(help="demo, sd3, sd15, sdxl, or sd15-lora, sd15-selection, ...; by the model if absent."),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file that changes the preset.")] = None,
    output: Annotated[Path | None, typer.Option(help="Run folder; `trained` beside the shards if absent.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps.")] = None,
    batch_pairs: Annotated[int | None, typer.Option(help="Pairs per optimizer step, over all processes.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate after warm-up.")] = None,
    objective: Annotated[str | None, typer.Option(help="dpo, cdpo, ipo, slic-hf, orpo or sft.")] = None,
    beta: Annotated[
        float | None, typer.Option(help="KL strength, as the published scripts have it; diffusers' for SD1.5 has half.")
    ] = None,
    lora_rank: Annotated[int | None, typer.Option(help="Train a LoRA of this rank, not all weights.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of every random draw.")] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the cached latents, for any number of runs; `latents` beside the shards if absent."
        ),
    ] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Encode images and prompts anew at every step.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the newest checkpoint.")] = False,
    single_file: Annotated[
        bool, typer.Option("--single-file", help="Also one file in the original layout, of SD1.5 or SDXL, all weights.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the recipe and counts; start nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Train a model on shards of preference pairs by Diffusion-DPO.

    Example: train run --shards run/shards
    """
    from train.training import TrainOptions, train
    from train.training.stage import plan

    options = TrainOptions(
        shards=shards, shard_store=shard_store, model=model, preset=preset, config=config, output=output, steps=steps,
        batch_pairs=batch_pairs, learning_rate=lr, objective=objective, beta=beta, lora_rank=lora_rank,
        seed=seed, cache=cache, use_cache=not no_cache, resume=resume,
        single_file=single_file,
    )  # fmt: skip
    found = plan(options) if dry_run else train(options)
    if found is not None:
        _print(found, as_json=as_json)


@app.command(cls=Command)
@in_groups(
    {
        "How it draws": "images_per_prompt steps guidance scheduler resolution_px batch seed",
        "What is written": "models grid",
    }
)
def sample(
    model: Annotated[
        list[str] | None,
        typer.Option(help="A pipeline, hub id or LoRA of ours, or NAME=ONE; repeatable.  [default: run/trained/model]"),
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="One model more, the last; what a lone --model was trained from if absent.")
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(help=".txt, .tsv, .json or .parquet, or a known set such as parti_prompts; the demo's if absent."),
    ] = None,
    prompts_file: Annotated[Path | None, typer.Option(help="Your copy of the known set that --prompts names.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder for pairs.parquet, manifest.toml and pictures; run/sampled if absent.")
    ] = None,
    images_per_prompt: Annotated[int, typer.Option(min=1, help="Pictures of each prompt.")] = 1,
    steps: Annotated[int, typer.Option(min=1, help="Denoising steps.")] = 25,
    guidance: Annotated[
        float | None,
        typer.Option(min=0, help="Guidance scale; what suits the model's family if absent, 7.5 for SD1.5."),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(help="ddim, dpm++, euler, unipc, ..., or a class of diffusers; the model's own if absent."),
    ] = None,
    resolution_px: Annotated[
        int | None, typer.Option(min=8, help="Side of the pictures; the model's own if absent.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Pictures drawn at once; changes them by rounding at most.")] = 16,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the initial noise.")] = 0,
    models: Annotated[str | None, typer.Option(help="Set of scoring models that the manifest asks for.")] = None,
    grid: Annotated[
        Path | None, typer.Option(help="Also draw a PNG of the first 8 prompts, last model and first.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Draw the same prompts from the same noise with two or more models, as pairs for `curate embed`.

    Example: train sample --model tuned=run/trained/model --model demo --prompts prompts.txt --images-per-prompt 2
    """
    from train.sample import SampleOptions, sample as run_sample

    options = SampleOptions(
        model=tuple(model or ()), against=against, prompts=prompts, prompts_file=prompts_file, output=output,
        images_per_prompt=images_per_prompt, steps=steps, guidance=guidance, scheduler=scheduler,
        resolution_px=resolution_px, batch_images=batch, seed=seed, models=models, grid=grid,
    )  # fmt: skip
    _print(run_sample(options), as_json=as_json)


def _print(document: dict[str, Any], *, as_json: bool) -> None:
    """The result of a command on stdout: one JSON document, or a line per value."""
    if as_json:
        typer.echo(json.dumps(document, indent=2, ensure_ascii=False))
        return
    for name, value in flat(document).items():
        shown = f"{value:.5g}" if isinstance(value, float) else value
        typer.echo(f"{name:<36} {shown}")


if __name__ == "__main__":
    main()
