"""CLIP towers in transformers' format: PickScore and any other CLIPModel folder or hub id."""

from collections.abc import Callable
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
from curate.models.towers.open_clip import checked_sha256
from curate.models.towers.precision import autocast, hold, memory_format

WEIGHTS_NAME = "model.safetensors"


class ProcessorPixels:
    """The picture's preprocessing alone, apart from the model, so that decode processes can have it."""

    def __init__(self, processor: CLIPImageProcessorPil) -> None:
        self.processor = processor

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """An RGB picture as a float32 (3, height, width) tensor."""
        return torch.as_tensor(self.processor(images=image, return_tensors="pt")["pixel_values"][0])


class TransformersClipTower:
    """A transformers CLIPModel with the tokenizer and image processor of `processor`."""

    def __init__(
        self,
        name: str,
        model: CLIPModel,
        processor: CLIPImageProcessorPil,
        tokenizer: Any,
        max_tokens: int,
        identity: dict[str, Any],
        device: str,
        precision: str,
    ) -> None:
        self.name = name
        self.model = model.eval().requires_grad_(False)
        hold(self.model.vision_model, device, precision)
        hold(self.model.visual_projection, device, precision)
        self.model.to(device)
        self.image_features: Callable[[torch.Tensor], torch.Tensor] = self._features
        self.preprocess = ProcessorPixels(processor)
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.identity = identity
        self.device = device
        self.precision = precision
        self.preprocessing = processor.to_json_string()
        self.dimension = model.text_projection.out_features
        self.scale = float(model.logit_scale.exp())

    @torch.inference_mode()
    def embed_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """(n, 3, height, width) -> float32 (n, dimension), L2-normalised, on the CPU."""
        with autocast(self.device, self.precision):
            features = self.image_features(
                pixels.to(self.device, memory_format=memory_format(self.device, self.precision))
            )
        return torch.nn.functional.normalize(features.float(), dim=-1).cpu()

    @torch.inference_mode()
    def embed_prompts(self, prompts: list[str]) -> torch.Tensor:
        """n prompts -> float32 (n, dimension), L2-normalised, on the CPU; cut at `max_tokens`."""
        # Padded to one length always, so that a prompt's batch cannot change its embedding's last bits.
        tokens = self.tokenizer(
            prompts, padding="max_length", truncation=True, max_length=self.max_tokens, return_tensors="pt"
        ).to(self.device)
        with autocast(self.device, self.precision):
            features = self.model.get_text_features(
                input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
            ).pooler_output
        return torch.nn.functional.normalize(features.float(), dim=-1).cpu()

    def _features(self, pixels: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.model.get_image_features(pixel_values=pixels).pooler_output
        return found


def load_transformers_clip(spec: TowerSpec, folder: Path, device: str, precision: str) -> TransformersClipTower:
    """`model` and `processor` are hub ids, or folders relative to the set of models.

    The image processor is Pillow's, as in PickScore's own code: torchvision's resize rounds otherwise.
    """
    options = spec.options
    model_id = _folder_or_id(options["model"], folder)
    processor_id = _folder_or_id(options.get("processor", options["model"]), folder)
    revision, processor_revision = options.get("revision", "main"), options.get("processor_revision", "main")
    model = _load_model(model_id, revision)
    processor = CLIPImageProcessorPil.from_pretrained(processor_id, revision=processor_revision)
    tokenizer = AutoTokenizer.from_pretrained(processor_id, revision=processor_revision)
    max_tokens = int(options.get("max_tokens", model.text_model.embeddings.position_embedding.num_embeddings))
    weights = _weights_of(model_id, revision)
    identity = {
        "model": options["model"],
        "revision": getattr(model.config, "_commit_hash", None) or revision,
        "sha256": checked_sha256(weights, options.get("sha256")),
    }
    return TransformersClipTower(spec.name, model, processor, tokenizer, max_tokens, identity, device, precision)


def _load_model(model_id: str, revision: str) -> CLIPModel:
    """Every weight from the checkpoint: transformers would fill what is missing with random numbers."""
    found = AutoConfig.from_pretrained(model_id, revision=revision).model_type
    if found != "clip":
        raise ModelError(f"{model_id} is a '{found}' model; this family takes a transformers CLIPModel")
    disable_progress_bar()
    loaded: Any = CLIPModel.from_pretrained(model_id, revision=revision, use_safetensors=True, output_loading_info=True)
    model: CLIPModel = loaded[0]
    loading: dict[str, Any] = loaded[1]
    if missing := sorted(loading["missing_keys"]):
        raise ModelError(f"{model_id} lacks {len(missing)} weights of a CLIPModel, such as {missing[0]}")
    return model


def _folder_or_id(name: str, folder: Path) -> str:
    """Names that start with a dot or a slash are folders, all others hub ids."""
    if not name.startswith((".", "/")):
        return name
    directory = (folder / name).resolve()
    if not (directory / "config.json").is_file():
        raise ModelError(f"no config.json in {directory}; give a CLIPModel folder in transformers' layout")
    return str(directory)


def _weights_of(model_id: str, revision: str) -> Path:
    local = Path(model_id) / WEIGHTS_NAME
    return local if local.is_file() else Path(hf_hub_download(model_id, WEIGHTS_NAME, revision=revision))
