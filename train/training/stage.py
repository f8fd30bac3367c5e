"""`train run`: its options as Python, what they come to, and the run itself. Light: torch loads when it begins."""

import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from train.config import Recipe, Run, load_recipe, model_named, without_none
from train.errors import ModelError, SettingsError
from train.files import absolute, run_folder
from train.terminal import note, silence_libraries

if TYPE_CHECKING:
    from train.data.pairs import PairSet


MANY_EPOCHS = 10.0  # the best 5.33 % are at their best after 5, as many at random after 9: docs/reproduction.md


@dataclass(frozen=True)
class TrainOptions:
    """Each option of `train run`, with the command's default; what is None is chosen as its help says.

    model and steps to seed, where given, win over the file `config`, and that over the preset.
    """

    shards: Path | str | None = None  # a folder or a URL
    shard_store: Path | None = None
    model: str | None = None
    preset: str | None = None
    config: Path | None = None
    output: Path | None = None
    steps: int | None = None
    batch_pairs: int | None = None
    learning_rate: float | None = None
    objective: str | None = None
    beta: float | None = None
    lora_rank: int | None = None
    seed: int | None = None
    cache: Path | None = None
    use_cache: bool = True
    resume: bool = False
    single_file: bool = False

    @property
    def shards_folder(self) -> Path:
        """Where shards.json lies, or what shards at a URL are fetched into."""
        return self.shard_store or run_folder() if self.shards_url else Path(self.shards or run_folder() / "shards")

    @property
    def shards_url(self) -> str | None:
        """The URL of shards that do not lie on this machine. Raises: SettingsError for a store without one."""
        scheme, _, rest = str(self.shards).partition(":/")  # a Path holds one slash of the two
        url = f"{scheme}://{rest.removeprefix('/')}" if rest and len(scheme) > 1 and scheme.isalnum() else None
        if self.shard_store is not None and url is None:
            raise SettingsError("--shard-store is for shards at a URL, and --shards names a folder; leave it out.")
        return url

    @property
    def output_folder(self) -> Path:
        """Where the run is kept: `trained` beside the shards if not said; in the run directory, of shards at a URL."""
        beside = run_folder() if self.shards_url else self.shards_folder / ".."
        return Path(self.output or os.path.normpath(beside / "trained"))

    def recipe(self) -> Recipe:
        """Preset, file and options as one. Raises: SettingsError; ModelError for a model that no preset fits."""
        flags = {
            "model": self.model,
            "run": {"steps": self.steps, "batch_pairs": self.batch_pairs, "seed": self.seed},
            "optimizer": {"learning_rate": self.learning_rate},
            "objective": {"name": self.objective, "beta": self.beta},
            "lora": {"rank": self.lora_rank},
        }
        preset = _preset(self.preset, self.model or model_named(self.config))
        recipe = load_recipe(preset, self.config, without_none(flags))
        reference = absolute(recipe.objective.reference)  # a name that is no folder stays as it is
        return replace(recipe, model=absolute(recipe.model), objective=replace(recipe.objective, reference=reference))


def train(options: TrainOptions | None = None) -> dict[str, Any] | None:
    """Train a model on shards of preference pairs; the summary, of several processes on the main one only.

    Raises: TrainError and its children.

    >>> summary = train(TrainOptions(shards=Path("run/shards"), output=Path("run/tuned"), steps=2))
    >>> summary["steps"], summary["model"]
    (2, 'run/tuned/model')
    """
    options = options or TrainOptions()
    recipe = options.recipe()
    _check_reference(recipe)
    pairs = _pairs(options, recipe)
    recipe = _within_epochs(recipe, len(pairs.pairs))
    _warn_of_epochs(recipe.run, len(pairs.pairs))
    from train.model.single_file import check_single_file, write_single_file
    from train.training.loop import run_training

    if options.single_file:
        base = None if Path(recipe.model).is_file() else recipe.model
        check_single_file(base, lora=recipe.lora is not None)
    silence_libraries()
    summary = run_training(
        recipe, pairs, options.output_folder, resume=options.resume, cache=options.cache, use_cache=options.use_cache
    )
    if options.single_file and summary is not None:
        summary |= {"single_file": str(write_single_file(options.output_folder / "model"))}
    return summary


def plan(options: TrainOptions) -> dict[str, Any]:
    """What a run would do, by as many processes as `accelerate launch` says; nothing starts. Raises: TrainError."""
    recipe, processes = options.recipe(), int(os.environ.get("WORLD_SIZE", "1"))
    pairs = _pairs(options, recipe)
    recipe = _within_epochs(recipe, len(pairs.pairs))
    from train.training.cost import is_open, planned

    counts = pairs.counts()
    costs: dict[str, Any] = {}
    try:
        recipe, costs = planned(recipe, pairs, processes, use_cache=options.use_cache)
    except ModelError as error:  # the recipe can be looked at where the model is not
        note(f"The cost is not counted: {error}")
    _warn_of_epochs(recipe.run, counts["pairs"])
    forwards = None if is_open(recipe) else recipe.run.pairs_at_once * processes
    return {
        "recipe": recipe.as_table(),
        **counts,
        "processes": processes,
        "micro_steps_per_step": forwards and math.ceil(recipe.run.batch_pairs / forwards),
        "epochs": round(recipe.run.epochs(counts["pairs"]), 2),
        **costs,
        "output": str(options.output_folder),
    }


def _check_reference(recipe: Recipe) -> None:
    """Raises: ModelError for a reference of another family, before anything is loaded."""
    named = recipe.objective.reference
    if named in ("start", "ema") or Path(recipe.model).is_file():
        return
    from train.model.families import family_of

    wanted, found = family_of(recipe.model).pipeline, family_of(named).pipeline
    if wanted != found:
        raise ModelError(f"objective.reference is {named}, a {found}; the model is a {wanted}.")


def _pairs(options: TrainOptions, recipe: Recipe) -> "PairSet":
    from train.data import pairs

    first = os.environ.get("LOCAL_RANK", "0") == "0"  # of a machine's processes one hashes the tars that all read
    verify, url = recipe.data.verify_shards and first, options.shards_url
    if url is None:
        return pairs.read_pairs(options.shards_folder, verify=verify)
    from train.data.shard_store import fetched

    return pairs.read_pairs(fetched(url, options.shards_folder, verify=verify), verify=False)


def _within_epochs(recipe: Recipe, pairs: int) -> Recipe:
    """With no more steps than `run.max_epochs` allows, but one."""
    run = recipe.run
    if run.max_epochs is not None:
        run = replace(run, steps=max(1, min(run.steps, math.floor(run.max_epochs * pairs / run.batch_pairs))))
    return replace(recipe, run=run)


def _warn_of_epochs(run: Run, pairs: int) -> None:
    if run.max_epochs is None and (epochs := run.epochs(pairs)) > MANY_EPOCHS:
        note(
            f"Note: {run.steps:,} steps of {run.batch_pairs:,} pairs go {epochs:,.0f} times over the {pairs:,} pairs."
            " In our experiments a small selection is learned by heart after 5; give fewer --steps, or"
            " `max_epochs = 5` under [run] in a file given by --config."
        )


def _preset(preset: str | None, model: str | None) -> str:
    """The preset named, or the one that fits the model; what is chosen for the user is said on stderr."""
    if preset is not None:
        return preset
    if model is None:
        note("No --model and no --preset: training the bundled demo model by preset demo.")
        return "demo"
    from train.model.families import BUNDLED, family_of

    if Path(model).is_file():
        raise SettingsError(f"{model} is one file, which names no class of pipeline; add --preset.")
    presets = ("demo",) if model in BUNDLED else family_of(model).presets
    if not presets:
        raise SettingsError(
            f"No recipe is published for models such as {model}: name one to begin with, such as --preset sd3 with"
            " --lora-rank 32, and set by --config what should differ."
        )
    chosen = presets[0]
    note(f"No --preset: taking {chosen}, which fits {model}.")
    return chosen
