"""A plain pipeline folder of what a recipe names in parts: a revision, a variant, another VAE, or one file.

It is made once, as `<output>/base`, before anything else is opened, and stands for the model from there on: for
training, for saving, and for drawing with a LoRA that was trained on it.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.loaders.single_file_utils import infer_diffusers_model_type, load_single_file_checkpoint
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from train.config import Recipe
from train.errors import ModelError, SettingsError
from train.files import whole_folder
from train.model.families import FAMILIES, family_drawn_by, family_of, left_out, locate

PARTS = ("model", "revision", "variant", "vae", "single_file_config")
COMPOSED_OF = "composed_of.json"
FAMILY_OF_FILE = {kind: family for family in FAMILIES.values() for kind in family.single_files}
UNREADABLE = (OSError, ValueError, KeyError, RuntimeError, HfHubHTTPError, HFValidationError)


def composed(recipe: Recipe, output: Path) -> tuple[Recipe, dict[str, Any]]:
    """The recipe as it is once `compose` has made the folder, and `composed_of`, the parts; nothing for a plain model.

    Raises: SettingsError.
    """
    parts = {name: getattr(recipe, name) for name in PARTS}
    if not Path(recipe.model).is_file() and not any(parts[name] for name in PARTS[1:]):
        return recipe, {}
    if recipe.revision is not None and Path(recipe.model).exists():
        raise SettingsError(f"revision is of a hub id; {recipe.model} lies on this machine: leave it out.")
    base = str((output / "base").resolve())
    return replace(recipe, model=base, revision=None, variant=None, vae=None, single_file_config=None), {
        "composed_of": parts
    }


def compose(parts: dict[str, Any], folder: Path) -> None:
    """Write the pipeline of `parts`, as `composed` names them, in float32, unless it is there; one of others goes.

    Raises: ModelError, StorageError.
    """
    stated = json.dumps(parts, indent=2)
    if (folder / COMPOSED_OF).is_file() and (folder / COMPOSED_OF).read_text("utf-8") == stated:
        return
    source = parts["model"]
    pipeline = _of_file(parts) if Path(source).is_file() else _of_pipeline(parts)
    if parts["vae"] is not None:
        pipeline.vae = _vae(parts["vae"])
    wanted = getattr(pipeline, family_drawn_by(pipeline).denoiser_name).config["in_channels"]
    if (given := pipeline.vae.config["latent_channels"]) != wanted:
        raise ModelError(f"The VAE {parts['vae']} has {given} latent channels; the model {source} takes {wanted}.")
    with whole_folder(folder) as temporary:
        pipeline.save_pretrained(temporary)
        (temporary / COMPOSED_OF).write_text(stated, "utf-8")


def _of_pipeline(parts: dict[str, Any]) -> Any:
    source, chosen = parts["model"], {name: parts[name] for name in ("revision", "variant") if parts[name]}
    without = left_out(source, parts["revision"])
    if family_of(source, parts["revision"]).name == "sd":
        without |= {"safety_checker": None, "requires_safety_checker": False}
    try:
        return DiffusionPipeline.from_pretrained(locate(source), dtype=torch.float32, **without, **chosen)
    except UNREADABLE as error:
        said = "".join(f", {name} {value}" for name, value in chosen.items())
        raise ModelError(f"{source}{said} cannot be opened: {_first_line(error)}") from error


def _of_file(parts: dict[str, Any]) -> Any:
    source, config = parts["model"], parts["single_file_config"]
    try:
        kind = infer_diffusers_model_type(load_single_file_checkpoint(source))
    except UNREADABLE as error:
        raise ModelError(f"{source} is no checkpoint that can be read: {_first_line(error)}") from error
    if kind not in FAMILY_OF_FILE:
        raise ModelError(f"{source} is a checkpoint of the kind {kind}; train takes {', '.join(FAMILY_OF_FILE)}.")
    try:
        pipeline = getattr(diffusers, FAMILY_OF_FILE[kind].pipeline)
        return pipeline.from_single_file(source, config=config, dtype=torch.float32)
    except UNREADABLE as error:
        raise ModelError(
            f"{source} cannot be opened with the configuration of {config or 'its kind on the hub'}:"
            f" {_first_line(error)}; name a pipeline folder of the same kind by single_file_config."
        ) from error


def _vae(source: str) -> AutoencoderKL:
    try:
        return AutoencoderKL.from_pretrained(source, dtype=torch.float32)
    except UNREADABLE as error:
        raise ModelError(f"The VAE {source} cannot be opened: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
