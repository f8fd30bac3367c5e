"""The `train` command: parse, call, report. Loads no torch until a command runs."""

import json
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from train.config import Recipe, Table, load_recipe
from train.errors import TrainError

if TYPE_CHECKING:
    from train.sample.prompts import Prompt
    from train.sample.stage import Model, Sampling

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Train a text-to-image model on preference pairs, and draw with it beside its base.",
)

GRID_PROMPTS = 8  # the first ones of the file: nobody chose them

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


@app.command()
def run(
    shards: Annotated[
        Path | None, typer.Option(help="Folder with shards.json and its tars; run/shards if absent.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Pipeline folder or hub id; the preset's own if absent.")] = None,
    preset: Annotated[
        str | None, typer.Option(help="demo, sd15, sdxl, sd3, sd15-lora or sdxl-lora; by the model if absent.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file that changes the preset.")] = None,
    output: Annotated[Path | None, typer.Option(help="Run folder; `trained` beside the shards if absent.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps.")] = None,
    batch_pairs: Annotated[int | None, typer.Option(help="Pairs per optimizer step, over all processes.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate after warm-up.")] = None,
    objective: Annotated[str | None, typer.Option(help="dpo, cdpo, ipo, slic-hf, orpo or sft.")] = None,
    beta: Annotated[
        float | None, typer.Option(help="KL strength; the loss halves it, so 2500 in diffusers is 5000 here.")
    ] = None,
    lora_rank: Annotated[int | None, typer.Option(help="Train a LoRA of this rank, not all weights.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of every random draw.")] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Folder of the cached latents; one in `latents` beside the shards if absent.")
    ] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Encode images and prompts anew at every step.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the newest checkpoint.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the recipe and counts; start nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Train a model on shards of preference pairs by Diffusion-DPO.

    Example: train run --shards run/shards
    """
    flags = _nested(
        {
            "model": model,
            "run.steps": steps,
            "run.batch_pairs": batch_pairs,
            "run.seed": seed,
            "optimizer.learning_rate": lr,
            "objective.name": objective,
            "objective.beta": beta,
            "lora.rank": lora_rank,
        }
    )
    recipe = load_recipe(_preset(preset, model), config, flags)
    shards = shards or _run_folder() / "shards"
    from train.data import pairs as pair_reader

    pairs = pair_reader.read_pairs(shards, verify=recipe.data.verify_shards)
    output = output or Path(os.path.normpath(shards / ".." / "trained"))
    if dry_run:
        _print(_plan(recipe, pairs.counts(), output), as_json=as_json)
        return
    from train.terminal import silence_libraries
    from train.training.loop import train

    silence_libraries()
    summary = train(recipe, pairs, output, resume=resume, cache=cache, use_cache=not no_cache)
    if summary is not None:
        _print(summary, as_json=as_json)


@app.command()
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
    guidance: Annotated[float, typer.Option(min=0, help="Classifier-free guidance scale.")] = 7.5,
    scheduler: Annotated[
        str | None,
        typer.Option(help="ddim, dpm++, euler, unipc, ..., or a class of diffusers; the model's own if absent."),
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
    from train.sample.generate import Manner
    from train.sample.stage import Sampling, save_tiles

    output = output or _run_folder() / "sampled"
    named, drawn = _models_to_draw(model, against), _prompts_to_draw(prompts, prompts_file)
    sampling = Sampling(named, drawn, images_per_prompt, Manner(steps, guidance, scheduler), batch, seed, models)
    summary = _sampled(sampling, output)
    if grid is not None:
        save_tiles(grid, sampling, output, GRID_PROMPTS)
        summary["grid"] = str(grid)
    _print(summary, as_json=as_json)


def _models_to_draw(models: list[str] | None, against: str | None) -> "tuple[Model, ...]":
    """As given, or the run's trained model and what it was trained from."""
    from train.model.saving import base_of
    from train.sample.stage import parse_model

    named = [parse_model(text) for text in models or [str(_run_folder() / "trained" / "model")]]
    if against is None and len(named) == 1:
        against = base_of(named[0].source)
        _note(f"No --against: drawing against {against}, which {named[0].name} was trained from.")
    return (*named, *([] if against is None else [parse_model(against)]))


def _prompts_to_draw(prompts: str | None, file: Path | None) -> "list[Prompt]":
    from train.sample.prompts import bundled_prompts, load_prompts

    if prompts is None:
        prompts = str(bundled_prompts())
        _note("No --prompts: drawing the bundled demo's held-out prompts.")
    found = load_prompts(prompts, file)
    for note in found.notes():
        _note(note)
    return found.prompts


def _sampled(sampling: "Sampling", output: Path) -> dict[str, Any]:
    """Draw; what came of it, with each model's faulty pictures named on stderr."""
    from train.sample.stage import MANIFEST_FILE
    from train.sample.stage import sample as run_sample
    from train.terminal import Reporter, silence_libraries

    silence_libraries()
    with Reporter(main=True) as reporter:
        faults = run_sample(sampling, output, lambda done, total: reporter.advance("sample", done, total))
    models = [one.name for one in sampling.models]
    for name, kinds in faults.items():
        words = " and ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in kinds.items())
        drawn = sampling.pictures // len(models)
        _note(f"{name}: {words} of {drawn} pictures; they are left out of every comparison, and counted there.")
    return {
        "manifest": str(output / MANIFEST_FILE),
        "models": models,
        "prompts": len(sampling.prompts),
        "pictures": sampling.pictures,
        "pairs": sampling.pictures * (len(models) - 1) // 2,
        "faults": faults,
    }


def _run_folder() -> Path:
    """The run directory that defaults lie in: PAIRSIEVE_RUN, or ./run."""
    return Path(os.environ.get("PAIRSIEVE_RUN") or "run")


def _note(text: str) -> None:
    """On stderr, what was chosen for the user; of several processes one says it."""
    if os.environ.get("RANK", "0") == "0":
        typer.echo(text, err=True)


def _preset(preset: str | None, model: str | None) -> str:
    """The preset named, or the one that fits the model; what is chosen for the user is said on stderr."""
    if preset is not None:
        return preset
    if model is None:
        _note("No --model and no --preset: training the bundled demo model by preset demo.")
        return "demo"
    from train.model.families import BUNDLED, FAMILIES, family_of

    chosen = "demo" if model in BUNDLED else FAMILIES[family_of(model)].preset
    _note(f"No --preset: taking {chosen}, which fits {model}.")
    return chosen


def _nested(flags: dict[str, Any]) -> Table:
    """`{"run.steps": 5}` as `{"run": {"steps": 5}}`, without the flags that were not given."""
    table: Table = {}
    for name, value in flags.items():
        if value is not None:
            *section, key = name.split(".")
            inner = table.setdefault(section[0], {}) if section else table
            inner[key] = value
    return table


def _plan(recipe: Recipe, counts: dict[str, int], output: Path) -> dict[str, Any]:
    """What a run would do, for as many processes as `accelerate launch` says."""
    settings, processes = recipe.run, int(os.environ.get("WORLD_SIZE", "1"))
    return {
        "recipe": recipe.as_table(),
        **counts,
        "processes": processes,
        "micro_steps_per_step": math.ceil(settings.batch_pairs / (settings.micro_batch_pairs * processes)),
        "epochs": round(settings.steps * settings.batch_pairs / counts["pairs"], 2),
        "output": str(output),
    }


def _print(document: dict[str, Any], *, as_json: bool) -> None:
    """The result of a command on stdout: one JSON document, or a line per value."""
    if as_json:
        typer.echo(json.dumps(document, indent=2, ensure_ascii=False))
        return
    for name, value in _lines(document):
        typer.echo(f"{name:<36} {value}")


def _lines(document: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in document.items():
        if isinstance(value, dict):
            yield from _lines(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", f"{value:.5g}" if isinstance(value, float) else value


if __name__ == "__main__":  # as `accelerate launch -m train.cli` starts it
    main()
