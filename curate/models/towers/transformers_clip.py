"""CLIP towers in transformers' format: PickScore and any other CLIPModel folder or hub id."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars
from PIL import Image
from transformers import AutoConfig, AutoTokenizer, CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.utils.logging import disable_progress_bar

from curate.errors import ModelError
from curate.models.model_set import TowerSpec
from curate.models.towers.checkpoints import differences, quiet
from curate.models.towers.clip import ClipTower
from curate.models.weights import MODEL_FILES, checked_sha256, repository

WEIGHTS_NAME = MODEL_FILES[-1]


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
    processor_name = options.get("processor", options["model"])
    path, commit = repository(options["model"], folder, options.get("revision"), MODEL_FILES)
    processor_path, processor_commit = repository(processor_name, folder, options.get("processor_revision"))
    model = _load_model(path, options["model"])
    processor = CLIPImageProcessorPil.from_pretrained(processor_path)
    tokenizer: Any = AutoTokenizer.from_pretrained(processor_path)
    max_tokens = int(options.get("max_tokens", model.text_model.embeddings.position_embedding.num_embeddings))

    def image_features(pixels: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = model.get_image_features(pixel_values=pixels).pooler_output
        return found

    def prompt_features(tokens: Any) -> torch.Tensor:
        found: torch.Tensor = model.get_text_features(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        ).pooler_output
        return found

    identity = {"model": options["model"], "processor": processor_name}
    identity |= {"revision": commit} if commit else {}
    identity |= {"processor_revision": processor_commit} if processor_commit else {}
    identity["sha256"] = checked_sha256(path / WEIGHTS_NAME, options.get("sha256"))
    # Padded to one length always, so that a prompt's batch cannot change its embedding's last bits.
    tokens_of = partial(tokenizer, padding="max_length", truncation=True, max_length=max_tokens, return_tensors="pt")
    halves = (ProcessorPixels(processor), image_features, tokens_of, prompt_features)
    encoders = (model.vision_model, model.visual_projection)
    return ClipTower(spec.name, model, encoders, *halves, identity, device, precision)


def _load_model(path: Path, name: str) -> CLIPModel:
    """Every weight from the checkpoint: transformers would fill what is missing with random numbers."""
    for file in MODEL_FILES:
        if not (path / file).is_file():
            raise ModelError(f"no {file} in {path}; give a CLIPModel folder in transformers' layout")
    found = AutoConfig.from_pretrained(path).model_type
    if found != "clip":
        raise ModelError(f"{name} is a '{found}' model; this family takes a transformers CLIPModel")
    downloads_are_shown = not are_progress_bars_disabled()
    disable_progress_bar()  # transformers switches the hub's off with its own
    if downloads_are_shown:
        enable_progress_bars()
    how: dict[str, Any] = {"use_safetensors": True, "output_loading_info": True, "ignore_mismatched_sizes": True}
    with quiet("transformers"):  # what it would report in a table is one sentence below
        loaded: Any = CLIPModel.from_pretrained(path, **how)
    model: CLIPModel = loaded[0]
    loading: dict[str, Any] = loaded[1]
    kinds = (sorted(loading[f"{kind}_keys"]) for kind in ("missing", "unexpected", "mismatched"))
    if differs := differences(*kinds):
        raise ModelError(f"{name}: {differs}")
    return model
