"""`train sample`: its options as Python, the models and prompts that they name, and the drawing. Torch loads late."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from train.errors import ModelError
from train.files import run_folder
from train.terminal import Reporter, note, silence_libraries

if TYPE_CHECKING:
    from train.sample.prompts import Prompt
    from train.sample.sampling import Model

GRID_PROMPTS = 8  # the first ones of the file: nobody chose them


@dataclass(frozen=True)
class SampleOptions:
    """Each option of `train sample`, with the command's default; what is None is chosen as its help says."""

    model: tuple[str, ...] = ()
    against: str | None = None
    prompts: str | None = None
    prompts_file: Path | None = None
    output: Path | None = None
    images_per_prompt: int = 1
    steps: int = 25
    guidance: float | None = None
    scheduler: str | None = None
    resolution_px: int | None = None
    batch_images: int = 16
    seed: int = 0
    models: str | None = None
    grid: Path | None = None


def sample(options: SampleOptions | None = None) -> dict[str, Any]:
    """Draw the same prompts from the same noise with two or more models, as pairs for `curate embed`; what was drawn.

    Raises: SettingsError, ModelError, PromptError, RunDirectoryError, StorageError, MemoryFullError.

    >>> twice = SampleOptions(("one=demo", "two=demo"), prompts="prompts.txt", output=Path("run/twice"), steps=1)
    >>> sample(twice)["pairs"]
    2
    """
    from train.model.families import family_of, fetched
    from train.model.saving import pipeline_of
    from train.sample.generate import GenerationSettings
    from train.sample.sampling import MANIFEST_FILE, Sampling, draw_pairs, fault_words, save_comparison

    options = options or SampleOptions()
    output = Path(options.output or run_folder() / "sampled")
    models_drawn = _models_to_draw(options.model, options.against)
    guidance = options.guidance
    if guidance is None:
        guidance = family_of(pipeline_of(models_drawn[0].source)).guidance
    sampling = Sampling(
        models_drawn,
        _prompts_to_draw(options.prompts, options.prompts_file),
        options.images_per_prompt,
        GenerationSettings(options.steps, guidance, options.scheduler, options.resolution_px),
        options.batch_images,
        options.seed,
        options.models,
    )
    silence_libraries()
    for one in sampling.models:
        if not fetched(pipeline_of(one.source)):
            note(f"Fetching {one.source} from the hub, once: some 4 to 30 GB.")
    with Reporter(main=True) as reporter:
        faults = draw_pairs(sampling, output, lambda done, total: reporter.advance("sample", done, total))
    models = [one.name for one in sampling.models]
    for name, kinds in faults.items():
        words = fault_words(kinds, sampling.pictures // len(models))
        note(f"{name}: {words}; they are left out of every comparison, and counted there.")
    if options.grid is not None:
        save_comparison(options.grid, sampling, output, GRID_PROMPTS)
    return {
        "manifest": str(output / MANIFEST_FILE),
        "models": models,
        "prompts": len(sampling.prompts),
        "pictures": sampling.pictures,
        "pairs": sampling.pairs,
        "faults": faults,
        **({} if options.grid is None else {"grid": str(options.grid)}),
    }


def _models_to_draw(models: tuple[str, ...], against: str | None) -> "tuple[Model, ...]":
    """As given, or the run's trained model and what it was trained from."""
    from train.model.saving import base_of
    from train.sample.sampling import parse_model

    trained = run_folder() / "trained" / "model"
    if not models and not trained.exists():
        raise ModelError(f"There is no trained model in {trained}; run `train run` first, or give --model.")
    named = [parse_model(text) for text in models or [str(trained)]]
    if against is None and len(named) == 1:
        against = base_of(named[0].source)
        note(f"No --against: drawing against {against}, which {named[0].name} was trained from.")
    return (*named, *([] if against is None else [parse_model(against)]))


def _prompts_to_draw(prompts: str | None, file: Path | None) -> "list[Prompt]":
    from train.sample.prompts import bundled_prompts, load_prompts

    if prompts is None:
        prompts = str(bundled_prompts())
        note("No --prompts: drawing the bundled demo's held-out prompts.")
    found = load_prompts(prompts, file)
    for sentence in found.notes():
        note(sentence)
    return found.prompts
