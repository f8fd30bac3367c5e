"""Stable Diffusion 1.5-, SDXL- and SD3-class models. All that differs between the families is in this file.

A model is a diffusers pipeline folder, a hub id, the name of a bundled one, or the folder that training
a LoRA left behind (its `training.json` names the base). The denoiser is what is trained: a U-Net, or SD3's
transformer. A further family is one more row of FAMILIES, and what `encode_prompts`, `denoise` and
`add_noise` do for it.
"""

import hashlib
import inspect
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal, NamedTuple

import diffusers
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import StableDiffusion3Pipeline
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from jaxtyping import Float, Int, Num
from torch import Tensor
from torch.nn import functional as F
from transformers import (
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    T5EncoderModel,
    T5Tokenizer,
)

from train.errors import ModelError
from train.files import read_json

Family = Literal["sd", "sdxl", "sd3"]
BUNDLED = {"demo": "demo/models/sd", "demo-sdxl": "demo/models/sdxl"}
Latents = Float[Tensor, "image channel height width"]
LatentShape = tuple[int, int, int]  # channel, height, width
T5_TOKENS = 256  # what SD3's pipeline gives its third encoder
SAMPLED_VALUES = 256  # of each tensor, for a digest
SETTINGS_OF_VALUES = [  # of an encoder's configuration: they decide what its weights compute
    *("act_fn", "norm_num_groups", "hidden_act", "feed_forward_proj", "num_attention_heads", "layer_norm_eps"),
    *("layer_norm_epsilon", "eos_token_id", "relative_attention_max_distance"),
]


class Spec(NamedTuple):
    """What a family is made of; `text` pairs each text encoder's class with its tokenizer's."""

    preset: str
    pipeline: Any
    denoiser_name: str
    denoiser: Any
    text: list[tuple[Any, Any]]
    scheduler: Any
    has_time_ids: bool = False
    vae_may_overflow: bool = False  # in half precision, where its config says force_upcast


FAMILIES: dict[Family, Spec] = {
    "sd": Spec(
        "sd15", StableDiffusionPipeline, "unet", UNet2DConditionModel, [(CLIPTextModel, CLIPTokenizer)], DDPMScheduler
    ),
    "sdxl": Spec(
        "sdxl",
        StableDiffusionXLPipeline,
        "unet",
        UNet2DConditionModel,
        [(CLIPTextModel, CLIPTokenizer), (CLIPTextModelWithProjection, CLIPTokenizer)],
        DDPMScheduler,
        has_time_ids=True,
        vae_may_overflow=True,
    ),
    "sd3": Spec(
        "sd3",
        StableDiffusion3Pipeline,
        "transformer",
        SD3Transformer2DModel,
        [
            (CLIPTextModelWithProjection, CLIPTokenizer),
            (CLIPTextModelWithProjection, CLIPTokenizer),
            (T5EncoderModel, T5Tokenizer),  # may be absent
        ],
        FlowMatchEulerDiscreteScheduler,
    ),
}
FAMILY_OF_PIPELINE = {spec.pipeline.__name__: family for family, spec in FAMILIES.items()}
Scheduler = DDPMScheduler | FlowMatchEulerDiscreteScheduler


@dataclass(frozen=True)
class Conditioning:
    """What a denoiser is told besides the noisy latents; SDXL and SD3 have pooled embeddings, SDXL time ids."""

    prompt_embeds: Float[Tensor, "image token width"]
    pooled_embeds: Float[Tensor, "image pooled"] | None = None
    time_ids: Float[Tensor, "image 6"] | None = None  # original h, w; crop top, left; target h, w (all px)

    def parts(self) -> dict[str, Tensor]:
        """Those that the model's family has, by name."""
        return {name: part for name, part in vars(self).items() if part is not None}

    def mapped(self, change: Callable[[Tensor], Tensor]) -> "Conditioning":
        """`change` of each part."""
        return Conditioning(**{name: change(part) for name, part in self.parts().items()})


class TextStates(NamedTuple):
    """What one text encoder makes of prompts; `pooled` of those that have a projection."""

    states: Float[Tensor, "prompt token width"]
    pooled: Float[Tensor, "prompt pooled"] | None = None


class TextShape(NamedTuple):
    """All of a model that `joined` needs to know."""

    family: Family
    text_width: int  # of SD3's embeddings


@dataclass(frozen=True)
class DiffusionModel:
    """The parts of a pipeline that training needs."""

    family: Family
    denoiser: UNet2DConditionModel | SD3Transformer2DModel
    vae: AutoencoderKL
    text_encoders: list[PreTrainedModel]
    tokenizers: list[PreTrainedTokenizerBase]
    scheduler: Scheduler
    zero_empty_prompt: bool  # the pipeline replaces an empty prompt's embedding by zeros

    @property
    def spec(self) -> Spec:
        return FAMILIES[self.family]

    @property
    def text_width(self) -> int:
        """Of the embeddings that SD3's transformer takes."""
        return int(self.denoiser.config.get("joint_attention_dim", 0))

    @property
    def factor(self) -> int:
        """Pixels to a latent value, along a side."""
        return 2 ** (len(self.vae.config["block_out_channels"]) - 1)

    @property
    def multiple_px(self) -> int:
        """What each side of a picture must be a multiple of."""
        config = self.denoiser.config
        is_unet = "patch_size" not in config
        return self.factor * (2 ** (len(config["block_out_channels"]) - 1) if is_unet else config["patch_size"])

    def latent_shape(self, height_px: int, width_px: int | None = None) -> LatentShape:
        """(channel, height, width) of the latents of a picture, a square if one side is given. Raises: ModelError."""
        width_px = height_px if width_px is None else width_px
        if height_px % self.multiple_px or width_px % self.multiple_px:
            raise ModelError(f"data.resolution_px is {height_px}; this model needs a multiple of {self.multiple_px}.")
        most_px = self.multiple_px * self.denoiser.config.get("pos_embed_max_size", math.inf)  # of SD3's transformer
        if max(height_px, width_px) > most_px:
            raise ModelError(f"data.resolution_px is {height_px}; this model takes pictures of {most_px} px at most.")
        return self.vae.config["latent_channels"], height_px // self.factor, width_px // self.factor


def digest(module: torch.nn.Module) -> str:
    """Tells an encoder from others: a hash of SETTINGS_OF_VALUES, and of its weights' names, shapes, some values."""
    config: Any = module.config
    config = config if isinstance(config, dict) else config.to_dict()
    found = hashlib.sha256(json.dumps([config.get(name) for name in SETTINGS_OF_VALUES]).encode())
    for name, value in module.state_dict().items():
        flat = value.detach().flatten()
        some = flat[:: max(1, flat.numel() // SAMPLED_VALUES)].float().cpu()
        found.update(f"{name}{tuple(value.shape)}".encode() + some.numpy().tobytes())
    return found.hexdigest()[:16]


def locate(source: str) -> str:
    """The folder or hub id behind a model's name: a bundled model's name stands for its folder."""
    if source in BUNDLED and not Path(source).is_dir():
        folder = Path(str(resources.files("data_manifests") / BUNDLED[source]))
        if not folder.is_dir():
            raise ModelError(f"The bundled model `{source}` is not installed: {folder} does not exist.")
        return str(folder)
    return source


def pipeline_index(source: str, revision: str | None = None) -> dict[str, Any]:
    """model_index.json of a pipeline folder or hub id, of a revision if one is named, its class checked.

    Raises: ModelError saying what was found instead.
    """
    located = locate(source)
    try:
        path = Path(located, "model_index.json")
        if not Path(located).is_dir():
            path = Path(hf_hub_download(located, "model_index.json", revision=revision))
        path.stat()
    except GatedRepoError as error:
        raise ModelError(
            f"{source} is gated: accept its terms at {constants.ENDPOINT}/{source} with your account, then log in by"
            " `hf auth login`, or set HF_TOKEN."
        ) from error
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        answer = f" (it answers {status}); for a private one log in by `hf auth login`, else" if status else ";"
        raise ModelError(
            f"{source} is neither a folder nor a model that the hub gives{answer} check the name and the network."
        ) from error
    except OSError as error:
        raise ModelError(
            f"{source} is not a diffusers pipeline folder: it has no model_index.json;"
            " give a folder saved with `save_pretrained`, or a hub id."
        ) from error
    try:
        index = read_json(path)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} is damaged ({error}); save the pipeline, or download it, again.") from error
    if index.get("_class_name") not in FAMILY_OF_PIPELINE:
        known = ", ".join(FAMILY_OF_PIPELINE)
        raise ModelError(f"{source} is a {index.get('_class_name')}; train takes {known} only.")
    return index


def left_out(source: str, revision: str | None = None) -> dict[str, Any]:
    """None for each part that a pipeline was saved without, as SD3 may be without T5: diffusers asks to be told."""
    return {name: None for name, kind in pipeline_index(source, revision).items() if kind == [None, None]}


def fetched(source: str) -> bool:
    """Whether a model's denoiser is here already: false for a hub id that is not in the hub's cache."""
    located, name = locate(source), FAMILIES[family_of(source)].denoiser_name
    return Path(located).is_dir() or isinstance(try_to_load_from_cache(located, f"{name}/config.json"), str)


def family_of(source: str, revision: str | None = None) -> Family:
    """Raises: ModelError when the pipeline is of another class."""
    return FAMILY_OF_PIPELINE[pipeline_index(source, revision)["_class_name"]]


@contextmanager
def whole_pipeline(source: str) -> Iterator[None]:
    """Raises: ModelError where a part of the pipeline is missing or cannot be read."""
    try:
        yield
    except OSError as error:
        raise ModelError(f"{source} is not a whole pipeline: {str(error).splitlines()[0]}") from error


def load(source: str, denoiser: Any = None) -> DiffusionModel:
    """All parts in float32, frozen, on the CPU; a `denoiser` that is given stands for the source's own, as it is.

    Raises: ModelError.
    """
    index = pipeline_index(source)
    family, located = FAMILY_OF_PIPELINE[index["_class_name"]], locate(source)
    spec = FAMILIES[family]
    text = _texts(spec, index)
    with whole_pipeline(source):
        model = DiffusionModel(
            family=family,
            denoiser=denoiser
            or spec.denoiser.from_pretrained(located, subfolder=spec.denoiser_name, dtype=torch.float32),
            vae=AutoencoderKL.from_pretrained(located, subfolder="vae", dtype=torch.float32),
            text_encoders=[
                kind.from_pretrained(located, subfolder=f"text_encoder{suffix}", dtype=torch.float32)
                for (kind, _), suffix in text
            ],
            tokenizers=[kind.from_pretrained(located, subfolder=f"tokenizer{suffix}") for (_, kind), suffix in text],
            scheduler=spec.scheduler.from_pretrained(located, subfolder="scheduler"),
            zero_empty_prompt=bool(index.get("force_zeros_for_empty_prompt", False)),
        )
    prediction_type = model.scheduler.config.get("prediction_type", "flow")
    if prediction_type not in ("epsilon", "v_prediction", "flow"):
        raise ModelError(f"{source} predicts `{prediction_type}`; train takes `epsilon` and `v_prediction`.")
    for module in (*([] if denoiser else [model.denoiser]), model.vae, *model.text_encoders):
        module.requires_grad_(False).eval()
    return model


def _texts(spec: Spec, index: dict[str, Any]) -> list[tuple[Any, str]]:
    """Classes of text encoder and tokenizer, and what their folders' names end in; SD3's third may be left out."""
    suffixes = ["", "_2", "_3"] if (index.get("text_encoder_3") or [None])[0] else ["", "_2"]
    return list(zip(spec.text, suffixes, strict=False))


def encoder_weights(source: str) -> int:
    """How many there are in VAE and text encoders; none is read. Raises: ModelError."""
    index, located = pipeline_index(source), locate(source)
    text = _texts(FAMILIES[FAMILY_OF_PIPELINE[index["_class_name"]]], index)
    with whole_pipeline(source), torch.device("meta"):
        modules = [AutoencoderKL.from_config(AutoencoderKL.load_config(located, subfolder="vae"))]
        for (kind, _), suffix in text:
            modules.append(kind(kind.config_class.from_pretrained(located, subfolder=f"text_encoder{suffix}")))
    return sum(weight.numel() for module in modules for weight in module.parameters())


def outline(source: str) -> DiffusionModel:
    """Denoiser, VAE and scheduler without weights, on the meta device; no text encoders. Raises: ModelError."""
    family, located = family_of(source), locate(source)
    spec = FAMILIES[family]
    with whole_pipeline(source), torch.device("meta"):
        return DiffusionModel(
            family=family,
            denoiser=spec.denoiser.from_config(spec.denoiser.load_config(located, subfolder=spec.denoiser_name)),
            vae=AutoencoderKL.from_config(AutoencoderKL.load_config(located, subfolder="vae")),
            text_encoders=[],
            tokenizers=[],
            scheduler=spec.scheduler(),
            zero_empty_prompt=False,
        )


def pipeline_around(source: str, denoiser: Any) -> Any:
    """The source's pipeline with another denoiser, in float32: made of the parts that `load` reads and of no others.

    So what a run opened it can also save, where nothing more can be fetched. Without safety checker and image encoder.
    Raises: ModelError.
    """
    model, index = load(source, denoiser), pipeline_index(source)
    parts: dict[str, Any] = {}
    for suffix, encoder, tokenizer in zip(["", "_2", "_3"], model.text_encoders, model.tokenizers, strict=False):
        parts |= {f"text_encoder{suffix}": encoder, f"tokenizer{suffix}": tokenizer}
    with whole_pipeline(source):
        scheduler = getattr(diffusers, index["scheduler"][1]).from_pretrained(locate(source), subfolder="scheduler")
    parts |= {model.spec.denoiser_name: denoiser, "vae": model.vae, "scheduler": scheduler}
    parts |= {"requires_safety_checker": False, "force_zeros_for_empty_prompt": model.zero_empty_prompt}
    taken = inspect.signature(model.spec.pipeline).parameters
    return model.spec.pipeline(
        **{name: parts.get(name) for name, one in taken.items() if name in parts or one.default is one.empty}
    )


def encode_prompts(model: DiffusionModel, prompts: list[str]) -> Conditioning:
    """What the pipeline itself computes from `prompts`; longer ones are cut at the tokenizer's length."""
    return joined(model, [encode_text(model, index, prompts) for index in range(len(model.text_encoders))])


@torch.no_grad()
def encode_text(model: DiffusionModel, index: int, prompts: list[str]) -> TextStates:
    """What text encoder `index` alone makes of `prompts`.

    An empty prompt becomes what the pipeline's guidance uses in its place, zeros where
    `force_zeros_for_empty_prompt` says so, because that is what training on empty prompts is for.
    """
    encoder, pooled = model.text_encoders[index], None
    tokens = text_tokens(model, index, prompts).to(encoder.device)
    if model.family == "sd" or index == 2:
        states = encoder(tokens).last_hidden_state
    else:
        output = encoder(tokens, output_hidden_states=True)
        states, pooled = output.hidden_states[-2], output.text_embeds if has_pooled(model, index) else None
    if model.zero_empty_prompt:
        keep = torch.tensor([prompt != "" for prompt in prompts], device=states.device)
        states, pooled = states * keep[:, None, None], None if pooled is None else pooled * keep[:, None]
    return TextStates(states, pooled)


def has_pooled(model: DiffusionModel, index: int) -> bool:
    """Whether text encoder `index` gives a pooled embedding: SDXL's second, and both of SD3's CLIPs."""
    return hasattr(model.text_encoders[index], "text_projection")


def joined(model: DiffusionModel | TextShape, texts: list[TextStates]) -> Conditioning:
    """The encoders' states and pooled embeddings as the denoiser takes them: CLIP's side by side.

    SD3's are padded to the third encoder's width, whose tokens follow (zeros if absent).
    """
    states = torch.cat([text.states for text in texts[:2]], dim=-1)
    pooled = [text.pooled for text in texts if text.pooled is not None]
    if model.family == "sd3":
        states = F.pad(states, (0, model.text_width - states.shape[-1]))
        t5 = texts[2].states if len(texts) == 3 else states.new_zeros(len(states), T5_TOKENS, model.text_width)
        states = torch.cat([states, t5], dim=-2)
    return Conditioning(states, torch.cat(pooled, dim=-1) if pooled else None)


def text_tokens(model: DiffusionModel, index: int, prompts: list[str]) -> Int[Tensor, "prompt token"]:
    tokenizer, limit = model.tokenizers[index], _token_limit(model, index)
    encoded = tokenizer(prompts, padding="max_length", max_length=limit, truncation=True, return_tensors="pt")
    tokens: Tensor = encoded.input_ids
    return tokens


def _token_limit(model: DiffusionModel, index: int) -> int:
    return T5_TOKENS if index == 2 else model.tokenizers[index].model_max_length


def prompts_cut(model: DiffusionModel, prompts: list[str]) -> int:
    """How many prompts are longer than the first text encoder takes, and are cut at its length."""
    limit = _token_limit(model, 0)
    return sum(len(ids) > limit for ids in model.tokenizers[0](prompts, truncation=False).input_ids) if prompts else 0


def denoise(
    denoiser: torch.nn.Module, noisy: Latents, timesteps: Num[Tensor, " image"], conditioning: Conditioning
) -> Latents:
    """The denoiser's prediction (epsilon, v, or the flow, as the model was trained), for every family."""
    inputs: dict[str, Any] = {"encoder_hidden_states": conditioning.prompt_embeds, "return_dict": False}
    if conditioning.time_ids is not None:
        inputs["added_cond_kwargs"] = {"text_embeds": conditioning.pooled_embeds, "time_ids": conditioning.time_ids}
    elif conditioning.pooled_embeds is not None:
        inputs["pooled_projections"] = conditioning.pooled_embeds
    prediction: Tensor = denoiser(noisy, timestep=timesteps, **inputs)[0]
    return prediction


@lru_cache(maxsize=2)
def _flow_sigmas(scheduler: FlowMatchEulerDiscreteScheduler, device: torch.device) -> Tensor:
    """Sigma of each training timestep, rising; copied to the device once, not at every step."""
    return scheduler.sigmas.flip(0).to(device)


def add_noise(
    scheduler: Scheduler, latents: Latents, noise: Latents, timesteps: Int[Tensor, " image"]
) -> tuple[Latents, Latents, Num[Tensor, " image"]]:
    """What a denoiser is given, what it should predict from that, and the timestep that it is told.

    Noise at level `timesteps`, larger meaning more; the target is the noise, v or the flow.
    v = alpha * noise - sigma * latents (arXiv 2202.00512). Flow matching (arXiv 2403.03206, eq. 2 and 13):
    noisy = (1 - sigma) * latents + sigma * noise, target = noise - latents, sigma by the scheduler's shift.
    """
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        sigma = _flow_sigmas(scheduler, latents.device)[timesteps]
        mix = sigma[:, None, None, None].to(latents.dtype)
        model_timesteps = sigma * scheduler.config["num_train_timesteps"]
        return (1 - mix) * latents + mix * noise, noise - latents, model_timesteps
    noisy = scheduler.add_noise(latents, noise, timesteps)  # type: ignore[arg-type]
    if scheduler.config["prediction_type"] == "v_prediction":
        return noisy, scheduler.get_velocity(latents, noise, timesteps), timesteps  # type: ignore[arg-type]
    return noisy, noise, timesteps
