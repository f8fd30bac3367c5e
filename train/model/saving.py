"""What training leaves behind: a folder that diffusers loads, with training.json that says what it is.

full fine-tune   <output>/model/      a pipeline folder: `from_pretrained` opens it
LoRA             <output>/model/      pytorch_lora_weights.safetensors: `load_lora_weights` opens it
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils.state_dict_utils import convert_state_dict_to_diffusers
from peft.utils.save_and_load import get_peft_model_state_dict

from train.errors import ModelError
from train.files import whole_folder
from train.model.families import FAMILIES, Family, locate, pipeline_index, whole_pipeline
from train.model.lora import ADAPTER

TRAINING = "training.json"
LORA_WEIGHTS = "pytorch_lora_weights.safetensors"


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
    pipeline = None if lora else _pipeline(base, torch.float32, **{FAMILIES[family].denoiser_name: denoiser})
    with whole_folder(output / "model") as folder:
        if pipeline is None:
            _save_lora(folder, denoiser, family)
        else:
            pipeline.save_pretrained(folder)
        document = {"base": base, "kind": "lora" if lora else "full", "source": source, **settings}
        (folder / TRAINING).write_text(json.dumps(document, indent=2) + "\n", "utf-8")
        card(folder)


def _save_lora(folder: Path, denoiser: Any, family: Family) -> None:
    name = FAMILIES[family].denoiser_name
    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(denoiser, adapter_name=ADAPTER))
    config = denoiser.peft_config[ADAPTER].to_dict()
    metadata = {key: config[key] for key in ("r", "lora_alpha", "use_dora")}
    metadata["target_modules"] = sorted(config["target_modules"])
    parts = {f"{name}_lora_layers": layers, f"{name}_lora_adapter_metadata": metadata}
    FAMILIES[family].pipeline.save_lora_weights(folder, weight_name=LORA_WEIGHTS, **parts)


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
    absent = {name: None for name, kind in pipeline_index(source).items() if kind == [None, None]}  # SD3 without T5
    with whole_pipeline(source):
        return DiffusionPipeline.from_pretrained(locate(source), dtype=dtype, **(absent | components))
