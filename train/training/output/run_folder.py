"""What an output directory says about itself, and whether a run may go on in it.

<output>/run.json      the settings: recipe, shards, cache or not, versions; written before the first step
         checkpoints/  see checkpoint.py
         log.jsonl     one line per optimizer step;  tensorboard/  the same as events
         wandb-id      the run's name at Weights & Biases, where the recipe asks for it
         samples/      pictures of base and policy, where the recipe asks for them
         model/        what training made, with training.json; written last
         summary.json  the final numbers; its presence means the run is finished
"""

import json
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from train.config import Recipe, defaults, flat
from train.errors import RunDirectoryError, shortened
from train.files import absolute, read_json, write_json
from train.training.output.checkpoint import checkpoints_folder

SETTINGS, SUMMARY = "run.json", "summary.json"
MAY_CHANGE_ON_RESUME = (  # what changes no weight
    "recipe.run.steps",
    "recipe.run.max_epochs",
    "recipe.run.checkpoint_every_steps",
    "recipe.run.checkpoint_minutes",
    "recipe.run.keep_checkpoints",
    "recipe.run.fsdp",
    "recipe.run.validate_every_steps",
    "recipe.run.sample_every_steps",
    "recipe.run.sample_prompts",
    "recipe.run.wandb_project",
)
CHANGES_BY_ROUNDING = (  # what may change on resume as well, and is said
    "recipe.run.micro_batch_pairs",
    "recipe.run.gradient_checkpointing",
    "recipe.run.channels_last",
    "recipe.run.compile",
    "recipe.optimizer.fused",
)
VERSIONED_PACKAGES = ("pairsieve", "torch", "diffusers", "transformers", "peft", "accelerate")


def settings_of(recipe: Recipe, shard_hashes: list[str], *, latent_cache: bool) -> dict[str, Any]:
    """What decides the outcome of a run, as run.json keeps it; a cache rounds latents to float16."""
    versions = {name: metadata.version(name) for name in VERSIONED_PACKAGES}
    return {
        "recipe": recipe.as_table(),
        "shards_sha256": shard_hashes,
        "latent_cache": latent_cache,
        "versions": versions,
    }


def finished_summary(output: Path, settings: dict[str, Any], *, resume: bool) -> dict[str, Any] | None:
    """The summary of a finished run under these settings, or None when there is work to do.

    Raises: RunDirectoryError when `output` holds a run under other settings, a longer one, or an unfinished
    one that the user did not ask to resume. A run that never came to a checkpoint is no run yet.
    """
    stored = _read(output / SETTINGS)
    if not any(checkpoints_folder(output).glob("step-*")):
        return None
    if stored is None:
        raise RunDirectoryError(f"{output} holds checkpoints without {SETTINGS}; name another --output, or remove it.")
    differing = _differences(stored, settings)
    if differing:
        raise RunDirectoryError(
            f"{output} holds a run under other settings ({'; '.join(differing)}); name another --output, or remove it."
        )
    summary, steps = _read(output / SUMMARY), settings["recipe"]["run"]["steps"]
    if summary is not None and summary["steps"] == steps:
        return summary
    if summary is not None and summary["steps"] > steps:
        raise RunDirectoryError(
            f"{output} holds a run of {summary['steps']} steps, more than the {steps} asked for;"
            " name another --output, or remove it."
        )
    if not resume:
        raise RunDirectoryError(
            f"{output} holds an unfinished run under these settings; add --resume to continue it,"
            " or name another --output."
        )
    return None


def begin(output: Path, settings: dict[str, Any], report: Callable[[str], None]) -> None:
    """Write run.json; `report` hears of what a resumed run does otherwise, by rounding alone. Raises: StorageError."""
    for change in _differences(_read(output / SETTINGS) or settings, settings, CHANGES_BY_ROUNDING):
        report(f"{change}; that changes results by rounding alone.")
    (output / SUMMARY).unlink(missing_ok=True)
    write_json(output / SETTINGS, settings)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return read_json(path)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise RunDirectoryError(f"{path} is damaged ({error}); name another --output.") from error


def _differences(stored: dict[str, Any], wanted: dict[str, Any], keys: tuple[str, ...] | None = None) -> list[str]:
    """`key: was stored, now wanted` for each of `keys`; absent, for all that decide the weights.

    Versions do not stop a run.
    """
    wanted = json.loads(json.dumps(wanted))  # as they were stored: tuples become lists
    stored = {"latent_cache": wanted.get("latent_cache")} | stored  # a run begun before it was kept may go on
    before, now = (flat({k: v for k, v in one.items() if k != "versions"}) for one in (stored, wanted))
    before["recipe.model"] = absolute(str(before.get("recipe.model")))  # of a run begun before whole paths were kept
    before = {f"recipe.{key}": value for key, value in defaults().items() if f"recipe.{key}" in now} | before
    free = {*MAY_CHANGE_ON_RESUME, *CHANGES_BY_ROUNDING}
    asked = keys or [key for key in {**before, **now} if key not in free]
    changed = [key for key in asked if before.get(key) != now.get(key)]
    return [f"{key}: was {_quoted(before.get(key))}, now {_quoted(now.get(key))}" for key in changed]


def _quoted(value: Any) -> str:
    return shortened(json.dumps(value))
