"""Stable Diffusion 1.5-class and SDXL-class models. All that differs between the families is in this file.

A model is a diffusers pipeline folder, a hub id, the name of a bundled one, or the folder that training
a LoRA left behind (its `training.json` names the base).
"""

import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from jaxtyping import Float, Int
from peft import LoraConfig
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer, PreTrainedModel

from train.config import Lora
from train.errors import ModelError

Family = Literal["sd", "sdxl"]
FAMILIES: dict[str, Family] = {"StableDiffusionPipeline": "sd", "StableDiffusionXLPipeline": "sdxl"}
PRESET_OF_FAMILY: dict[Family, str] = {"sd": "sd15", "sdxl": "sdxl"}
BUNDLED = {"demo": "demo/models/sd", "demo-sdxl": "demo/models/sdxl"}
ADAPTER = "default"


@dataclass(frozen=True)
class Conditioning:
    """What a U-Net is told besides the noisy latents; the last two are SDXL's alone."""

    prompt_embeds: Float[Tensor, "image token width"]
    pooled_embeds: Float[Tensor, "image pooled"] | None = None
    time_ids: Float[Tensor, "image 6"] | None = None  # original h, w; crop top, left; target h, w (all px)

    def to(self, device: torch.device, dtype: torch.dtype) -> "Conditioning":
        moved = [None if part is None else part.to(device, dtype) for part in vars(self).values()]
        return Conditioning(*moved)  # type: ignore[arg-type]


@dataclass(frozen=True)
class DiffusionModel:
    """The parts of a pipeline that training needs."""

    family: Family
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoders: list[PreTrainedModel]
    tokenizers: list[CLIPTokenizer]
    scheduler: DDPMScheduler
    zero_empty_prompt: bool  # the pipeline replaces an empty prompt's embedding by zeros

    def latent_shape(self, resolution_px: int) -> tuple[int, int, int]:
        """(channel, height, width) of the latents of a square image. Raises: ModelError."""
        factor = 2 ** (len(self.vae.config["block_out_channels"]) - 1)
        needed_px = factor * 2 ** (len(self.unet.config["block_out_channels"]) - 1)
        if resolution_px % needed_px:
            raise ModelError(f"data.resolution_px is {resolution_px}; this model needs a multiple of {needed_px}.")
        return self.vae.config["latent_channels"], resolution_px // factor, resolution_px // factor


def locate(source: str) -> str:
    """The folder or hub id behind a model's name: a bundled model's name stands for its folder."""
    if source in BUNDLED and not Path(source).is_dir():
        folder = Path(str(resources.files("data_manifests") / BUNDLED[source]))
        if not folder.is_dir():
            raise ModelError(f"The bundled model `{source}` is not installed: {folder} does not exist.")
        return str(folder)
    return source


def pipeline_index(source: str) -> dict[str, Any]:
    """model_index.json of a pipeline folder or hub id, its class checked.

    Raises: ModelError saying what was found instead.
    """
    located = locate(source)
    try:
        path = Path(located, "model_index.json")
        if not Path(located).is_dir():
            path = Path(hf_hub_download(located, "model_index.json"))
        index: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise ModelError(
            f"{source} is neither a folder nor a model that the hub gives; check the name and the network."
        ) from error
    except OSError as error:
        raise ModelError(
            f"{source} is not a diffusers pipeline folder: it has no model_index.json;"
            " give a folder saved with `save_pretrained`, or a hub id."
        ) from error
    if index.get("_class_name") not in FAMILIES:
        raise ModelError(f"{source} is a {index.get('_class_name')}; train takes {' and '.join(FAMILIES)} only.")
    return index


def family_of(source: str) -> Family:
    """`sd` or `sdxl`. Raises: ModelError when the pipeline is of another class."""
    return FAMILIES[pipeline_index(source)["_class_name"]]


def load(source: str) -> DiffusionModel:
    """All parts in float32, frozen, on the CPU. Raises: ModelError."""
    index = pipeline_index(source)
    family, located = FAMILIES[index["_class_name"]], locate(source)
    text_classes = [CLIPTextModel, CLIPTextModelWithProjection][: 1 if family == "sd" else 2]
    suffixes = ["", "_2"][: len(text_classes)]
    try:
        model = DiffusionModel(
            family=family,
            unet=UNet2DConditionModel.from_pretrained(located, subfolder="unet", dtype=torch.float32),
            vae=AutoencoderKL.from_pretrained(located, subfolder="vae", dtype=torch.float32),
            text_encoders=[
                kind.from_pretrained(located, subfolder=f"text_encoder{suffix}", dtype=torch.float32)
                for kind, suffix in zip(text_classes, suffixes, strict=True)
            ],
            tokenizers=[CLIPTokenizer.from_pretrained(located, subfolder=f"tokenizer{suffix}") for suffix in suffixes],
            scheduler=DDPMScheduler.from_pretrained(located, subfolder="scheduler"),
            zero_empty_prompt=bool(index.get("force_zeros_for_empty_prompt", False)),
        )
    except OSError as error:
        raise ModelError(f"{source} is not a whole pipeline: {str(error).splitlines()[0]}") from error
    prediction_type = model.scheduler.config["prediction_type"]
    if prediction_type not in ("epsilon", "v_prediction"):
        raise ModelError(f"{source} predicts `{prediction_type}`; train takes `epsilon` and `v_prediction`.")
    for module in (model.unet, model.vae, *model.text_encoders):
        module.requires_grad_(False).eval()
    return model


@torch.no_grad()
def encode_prompts(model: DiffusionModel, prompts: list[str]) -> Conditioning:
    """What the pipeline itself computes from `prompts`; longer ones are cut at the tokenizer's length.

    An empty prompt becomes what the pipeline's guidance uses in its place, zeros where
    `force_zeros_for_empty_prompt` says so, because that is what training on empty prompts is for.
    """
    hidden = [_hidden_states(model, index, prompts) for index in range(len(model.text_encoders))]
    if model.family == "sd":
        return Conditioning(hidden[0].last_hidden_state)
    embeds = torch.cat([output.hidden_states[-2] for output in hidden], dim=-1)
    pooled = hidden[-1].text_embeds
    if model.zero_empty_prompt:
        keep = torch.tensor([prompt != "" for prompt in prompts], device=embeds.device)
        embeds, pooled = embeds * keep[:, None, None], pooled * keep[:, None]
    return Conditioning(embeds, pooled)


def _hidden_states(model: DiffusionModel, index: int, prompts: list[str]) -> Any:
    tokens = model.tokenizers[index](prompts, padding="max_length", truncation=True, return_tensors="pt")
    encoder = model.text_encoders[index]
    return encoder(tokens.input_ids.to(encoder.device), output_hidden_states=True)


def denoise(
    unet: torch.nn.Module,
    noisy: Float[Tensor, "image channel height width"],
    timesteps: Int[Tensor, " image"],
    conditioning: Conditioning,
) -> Float[Tensor, "image channel height width"]:
    """The U-Net's prediction (epsilon or v, as the model was trained), for either family."""
    added = None
    if conditioning.pooled_embeds is not None:
        added = {"text_embeds": conditioning.pooled_embeds, "time_ids": conditioning.time_ids}
    output = unet(
        noisy,
        timesteps,
        encoder_hidden_states=conditioning.prompt_embeds,
        added_cond_kwargs=added,
        return_dict=False,
    )
    prediction: Tensor = output[0]
    return prediction


def add_noise(
    scheduler: DDPMScheduler,
    latents: Float[Tensor, "image channel height width"],
    noise: Float[Tensor, "image channel height width"],
    timesteps: Int[Tensor, " image"],
) -> tuple[Float[Tensor, "image channel height width"], Float[Tensor, "image channel height width"]]:
    """Noisy latents and what the U-Net should predict from them: the noise, or v (arXiv 2202.00512)."""
    noisy = scheduler.add_noise(latents, noise, timesteps)  # type: ignore[arg-type]
    if scheduler.config["prediction_type"] == "v_prediction":
        return noisy, scheduler.get_velocity(latents, noise, timesteps)  # type: ignore[arg-type]
    return noisy, noise


def add_lora(unet: UNet2DConditionModel, lora: Lora, seed: int) -> None:
    """Add trainable float32 adapters; they start as zero, so policy = reference. Raises: ModelError."""
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.rank if lora.alpha is None else lora.alpha,
        target_modules=list(lora.targets),
        init_lora_weights=True,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            unet.add_adapter(config, adapter_name=ADAPTER)
        except ValueError as error:
            raise ModelError(f"No layer of the U-Net matches lora.targets {list(lora.targets)}.") from error
    for parameter in trainable(unet).values():
        parameter.data = parameter.data.float()


def trainable(unet: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The parameters that training changes, by name."""
    return {name: parameter for name, parameter in unet.named_parameters() if parameter.requires_grad}
