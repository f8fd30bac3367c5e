"""What training leaves behind: a folder that diffusers loads, with training.json that says what it is.

full fine-tune   <output>/model/      a pipeline folder: `from_pretrained` opens it
LoRA             <output>/model/      pytorch_lora_weights.safetensors: `load_lora_weights` opens it
                                      kohya_lora.safetensors: the same for ComfyUI and A1111 (SD and SDXL)
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils.state_dict_utils import convert_state_dict_to_diffusers
from peft.utils.save_and_load import get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor

from train.errors import ModelError, TrainError
from train.files import whole_folder
from train.model.families import Family, left_out, locate, pipeline_around, pipeline_index, whole_pipeline
from train.model.lora import ADAPTER

TRAINING = "training.json"
LORA_WEIGHTS = "pytorch_lora_weights.safetensors"
KOHYA_WEIGHTS = "kohya_lora.safetensors"
KOHYA_PARTS = {"A": "lora_down", "B": "lora_up"}


@dataclass(frozen=True)
class Trained:
    """What training.json says: the model trained from, and whether the folder holds a LoRA or a pipeline."""

    base: str
    kind: str  # "lora" or "full"
    chosen_by: tuple[str, ...] = ()  # scorers that chose the pairs, its base's pairs too


def save_model(
    output: Path,
    denoiser: torch.nn.Module,
    family: Family,
    settings: dict[str, Any],
    source: dict[str, Any],
    card: Callable[[Path], None],
) -> None:
    """Write `<output>/model`, whole or not at all; `card` adds what describes it.

    settings: as run.json has them. source: what shards.json says of the data set and the ranking.
    Raises: StorageError, ModelError.
    """
    base, lora = settings["recipe"]["model"], settings["recipe"]["lora"] is not None
    pipeline = None if lora else pipeline_around(base, denoiser)
    with whole_folder(output / "model") as folder:
        if pipeline is None:
            _save_lora(folder, denoiser, family)
        else:
            pipeline.save_pretrained(folder)
        document = {"base": base, "kind": "lora" if lora else "full", "source": source, **settings}
        (folder / TRAINING).write_text(json.dumps(document, indent=2) + "\n", "utf-8")
        card(folder)


@contextmanager
def resumable(output: Path) -> Iterator[None]:
    """Says of a failure to save that the trained weights stand in the last checkpoint."""
    try:
        yield
    except TrainError as error:
        raise type(error)(
            f"{error} The training is done and kept in {output}/checkpoints; run again with --resume, and the model is"
            " saved from there."
        ) from error


def _save_lora(folder: Path, denoiser: Any, family: Family) -> None:
    name = family.denoiser_name
    weights = get_peft_model_state_dict(denoiser, adapter_name=ADAPTER)
    layers = convert_state_dict_to_diffusers(weights)
    config = denoiser.peft_config[ADAPTER].to_dict()
    metadata = {key: config[key] for key in ("r", "lora_alpha", "use_dora")}
    metadata["target_modules"] = sorted(config["target_modules"])
    parts = {f"{name}_lora_layers": layers, f"{name}_lora_adapter_metadata": metadata}
    getattr(diffusers, family.pipeline).save_lora_weights(folder, weight_name=LORA_WEIGHTS, **parts)
    if name == "unet" and not config["use_dora"]:  # SD3 they read in diffusers' form; DoRA each in its own way
        save_file(kohya_weights(weights, config["lora_alpha"]), folder / KOHYA_WEIGHTS)


def kohya_weights(weights: dict[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """A U-Net's adapters by the names that ComfyUI and A1111 look for, and each layer's alpha beside.

    weights: as peft names them, `<layer>.lora_A.weight`. Without an alpha those programs take the rank for it.
    """
    found: dict[str, Tensor] = {}
    for name, value in weights.items():
        layer, _, part = name.removesuffix(".weight").rpartition(".lora_")
        key = f"lora_unet_{layer.replace('.', '_')}"
        found |= {f"{key}.{KOHYA_PARTS[part]}.weight": value, f"{key}.alpha": torch.tensor(float(alpha))}
    return found


def read_trained(folder: Path) -> Trained | None:
    """What training.json of `folder` says, or None when the folder is not of our making."""
    path = folder / TRAINING
    if not path.is_file():
        return None
    try:
        document = json.loads(path.read_text("utf-8"))
        return Trained(document["base"], document["kind"], _chosen_by(document))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path} is not what `train run` writes; train again or name a pipeline.") from error


def _chosen_by(document: dict[str, Any]) -> tuple[str, ...]:
    """Scorers that had a say in which pairs were trained on, here and in the training of what it was trained from.

    Shards of before `chosen_by` say psi alone.
    """
    ranking = document.get("source", {}).get("ranking") or {}
    earlier = read_trained(Path(document["base"]))
    chosen = ranking.get("chosen_by", list(ranking.get("psi", {})))
    return tuple(sorted({*chosen, *(earlier.chosen_by if earlier else ())}))


def pipeline_of(source: str) -> str:
    """The pipeline that `source` draws with: its base, where it is a LoRA of ours. Raises: ModelError."""
    trained = read_trained(Path(source))
    return trained.base if trained is not None and trained.kind == "lora" else source


def base_of(source: str) -> str:
    """The model that `source` was trained from. Raises: ModelError when nothing says so."""
    trained = read_trained(Path(source))
    if trained is None:
        raise ModelError(f"{source} has no {TRAINING} that names its base; give --against.")
    return trained.base


def open_pipeline(source: str, dtype: torch.dtype) -> Any:
    """A pipeline folder, hub id, bundled model or LoRA folder of ours, ready to draw.

    The safety checker is left out: the pictures it blackens would be compared as if they had been drawn.
    Raises: ModelError.
    """
    base = pipeline_of(source)
    checked = "safety_checker" in pipeline_index(base)
    pipeline = _pipeline(base, dtype, **({"safety_checker": None} if checked else {}))
    if base != source:
        try:
            pipeline.load_lora_weights(source, weight_name=LORA_WEIGHTS)
        except OSError as error:
            raise ModelError(f"{source} has no {LORA_WEIGHTS}; train again or name a pipeline.") from error
    return pipeline


def _pipeline(source: str, dtype: torch.dtype, **components: Any) -> Any:
    with whole_pipeline(source):
        return DiffusionPipeline.from_pretrained(locate(source), dtype=dtype, **(left_out(source) | components))
