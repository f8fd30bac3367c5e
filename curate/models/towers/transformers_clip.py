"""CLIP towers in transformers' format: PickScore and any other CLIPModel folder or hub id."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from PIL import Image
from transformers import AutoConfig, AutoTokenizer, CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.utils.logging import disable_progress_bar

from curate.errors import ModelError
from curate.models.model_set import TowerSpec
from curate.models.towers.checkpoints import differences, quiet
from curate.models.towers.clip import ClipTower
from curate.models.weights import checked_sha256, folder_or_id

WEIGHTS_NAME = "model.safetensors"


class ProcessorPixels:
    """The picture's preprocessing alone, apart from the model, so that decode processes can have it."""

    def __init__(self, processor: CLIPImageProcessorPil) -> None:
        self.processor = processor

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """An RGB picture as a float32 (3, height, width) tensor."""
        return torch.as_tensor(self.processor(images=image, return_tensors="pt")["pixel_values"][0])

    def __str__(self) -> str:
        return self.processor.to_json_string()


def load_transformers_clip(spec: TowerSpec, folder: Path, device: str, precision: str) -> ClipTower:
    """`model` and `processor` are hub ids, or folders relative to the set of models.

    The image processor is Pillow's, as in PickScore's own code: torchvision's resize rounds otherwise.
    """
    options = spec.options
    model_id = _checked_location(options["model"], folder)
    processor_id = _checked_location(options.get("processor", options["model"]), folder)
    revision, processor_revision = options.get("revision", "main"), options.get("processor_revision", "main")
    model = _load_model(model_id, revision)
    processor = CLIPImageProcessorPil.from_pretrained(processor_id, revision=processor_revision)
    tokenizer: Any = AutoTokenizer.from_pretrained(processor_id, revision=processor_revision)
    max_tokens = int(options.get("max_tokens", model.text_model.embeddings.position_embedding.num_embeddings))
    weights = _weights_of(model_id, revision)

    def image_features(pixels: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = model.get_image_features(pixel_values=pixels).pooler_output
        return found

    def prompt_features(tokens: Any) -> torch.Tensor:
        found: torch.Tensor = model.get_text_features(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        ).pooler_output
        return found

    identity = {
        "model": options["model"],
        "revision": getattr(model.config, "_commit_hash", None) or revision,
        "sha256": checked_sha256(weights, options.get("sha256")),
    }
    # Padded to one length always, so that a prompt's batch cannot change its embedding's last bits.
    tokens_of = partial(tokenizer, padding="max_length", truncation=True, max_length=max_tokens, return_tensors="pt")
    halves = (ProcessorPixels(processor), image_features, tokens_of, prompt_features)
    encoders = (model.vision_model, model.visual_projection)
    return ClipTower(spec.name, model, encoders, *halves, identity, device, precision)


def _load_model(model_id: str, revision: str) -> CLIPModel:
    """Every weight from the checkpoint: transformers would fill what is missing with random numbers."""
    found = AutoConfig.from_pretrained(model_id, revision=revision).model_type
    if found != "clip":
        raise ModelError(f"{model_id} is a '{found}' model; this family takes a transformers CLIPModel")
    disable_progress_bar()
    how: dict[str, Any] = {"use_safetensors": True, "output_loading_info": True, "ignore_mismatched_sizes": True}
    with quiet("transformers"):  # what it would report in a table is one sentence below
        loaded: Any = CLIPModel.from_pretrained(model_id, revision=revision, **how)
    model: CLIPModel = loaded[0]
    loading: dict[str, Any] = loaded[1]
    kinds = (sorted(loading[f"{kind}_keys"]) for kind in ("missing", "unexpected", "mismatched"))
    if differs := differences(*kinds):
        raise ModelError(f"{model_id}: {differs}")
    return model


def _checked_location(name: str, folder: Path) -> str:
    location = folder_or_id(name, folder)
    if location.startswith("/") and not (Path(location) / "config.json").is_file():
        raise ModelError(f"no config.json in {location}; give a CLIPModel folder in transformers' layout")
    return location


def _weights_of(model_id: str, revision: str) -> Path:
    local = Path(model_id) / WEIGHTS_NAME
    return local if local.is_file() else Path(hf_hub_download(model_id, WEIGHTS_NAME, revision=revision))
