"""What every family answers, with what most of them say, and what is done with any of them.

A further family is one more file beside this one: a `Family` with its classes and what differs, a `Conditioning` where
its denoiser is called in another way, and its place in the list of loading.py.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple

import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from jaxtyping import Float, Int, Num
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from train.errors import ModelError

Latents = Float[Tensor, "image channel height width"]
LatentShape = tuple[int, int, int]  # channel, height, width
Scheduler = DDPMScheduler | FlowMatchEulerDiscreteScheduler
CLIP_TOKENS = 77


@dataclass(frozen=True)
class Conditioning:
    """What a denoiser is told besides the noisy latents; each family has those parts that its denoiser takes."""

    prompt_embeds: Float[Tensor, "image token width"]
    pooled_embeds: Float[Tensor, "image pooled"] | None = None
    time_ids: Float[Tensor, "image 6"] | None = None  # original h, w; crop top, left; target h, w (all px)

    def parts(self) -> dict[str, Tensor]:
        """Those that the model's family has, by name."""
        return {name: part for name, part in vars(self).items() if part is not None}

    def mapped(self, change: Callable[[Tensor], Tensor]) -> "Conditioning":
        """`change` of each part."""
        return replace(self, **{name: change(part) for name, part in self.parts().items()})

    def denoise(self, denoiser: torch.nn.Module, noisy: Latents, timesteps: Num[Tensor, " image"]) -> Latents:
        """The denoiser's prediction (epsilon, v, or the flow, as the model was trained)."""
        inputs: dict[str, Any] = {"encoder_hidden_states": self.prompt_embeds, "return_dict": False}
        if self.time_ids is not None:
            inputs["added_cond_kwargs"] = {"text_embeds": self.pooled_embeds, "time_ids": self.time_ids}
        elif self.pooled_embeds is not None:
            inputs["pooled_projections"] = self.pooled_embeds
        prediction: Tensor = denoiser(noisy, timestep=timesteps, **inputs)[0]
        return prediction


class TextStates(NamedTuple):
    """What one text encoder makes of prompts; `pooled` of those that have a projection."""

    states: Float[Tensor, "prompt token width"]
    pooled: Float[Tensor, "prompt pooled"] | None = None


class TextEncoder(NamedTuple):
    """Classes of transformers. tokens: what prompts are cut or filled up to; absent: the tokenizer's own length."""

    encoder: str
    tokenizer: str
    has_pooled: bool = False
    tokens: int | None = None


class Family:
    """One family of models. Classes are named as diffusers and transformers name them."""

    name: str  # in the latent cache's keys, too: never to be changed
    preset: str
    pipeline: str
    denoiser_name = "transformer"
    denoiser: str
    vae = "AutoencoderKL"
    scheduler: Any = FlowMatchEulerDiscreteScheduler
    text: ClassVar[tuple[TextEncoder, ...]]
    single_files: ClassVar[tuple[str, ...]] = ()  # the kinds of one-file checkpoints, as diffusers names them
    has_time_ids = False
    vae_may_overflow = False  # in half precision, where its config says force_upcast

    def factor(self, vae: Any) -> int:
        """Pixels to a latent value, along a side. vae: its configuration."""
        return int(2 ** (len(vae["block_out_channels"]) - 1))

    def patch(self, denoiser: Any) -> int:
        """Latent values that the denoiser takes together, along a side. denoiser: its configuration."""
        return int(denoiser["patch_size"])

    def most_patches(self, denoiser: Any) -> int | float:
        """Along a side."""
        return math.inf

    def text_width(self, denoiser: Any) -> int:
        """Of the embeddings that the denoiser takes, where the encoders' own are brought to it."""
        return 0

    def text_shapes(self, denoiser: Any) -> list[tuple[int, int, int | None]]:
        """(tokens, width, pooled width) of each text encoder's states, or of several that stand side by side as one."""
        raise NotImplementedError

    def text_states(self, encoder: Any, index: int, tokens: Int[Tensor, "prompt token"]) -> TextStates:
        """What text encoder `index` makes of tokens."""
        raise NotImplementedError

    def joined(self, texts: list[TextStates], text_width: int) -> Conditioning:
        """The encoders' states and pooled embeddings as the denoiser takes them: side by side, unless it is told."""
        pooled = [text.pooled for text in texts if text.pooled is not None]
        states = torch.cat([text.states for text in texts], dim=-1)
        return Conditioning(states, torch.cat(pooled, dim=-1) if pooled else None)

    def posterior(self, vae: Any, pixels: Float[Tensor, "image 3 px_h px_w"]) -> tuple[Latents, Latents]:
        """Mean and standard deviation of the latents that the denoiser takes."""
        found = vae.encode(pixels).latent_dist
        scale, shift = vae.config["scaling_factor"], vae.config.get("shift_factor")
        mean = found.mean if shift is None else found.mean - shift
        return mean * scale, found.std * scale


@dataclass(frozen=True)
class DiffusionModel:
    """The parts of a pipeline that training needs."""

    family: Family
    denoiser: Any
    vae: Any
    text_encoders: list[PreTrainedModel]
    tokenizers: list[PreTrainedTokenizerBase]
    scheduler: Scheduler
    zero_empty_prompt: bool  # the pipeline replaces an empty prompt's embedding by zeros

    @property
    def text_width(self) -> int:
        return self.family.text_width(self.denoiser.config)

    @property
    def multiple_px(self) -> int:
        """What each side of a picture must be a multiple of."""
        return self.family.factor(self.vae.config) * self.family.patch(self.denoiser.config)

    def latent_shape(self, height_px: int, width_px: int | None = None) -> LatentShape:
        """(channel, height, width) of the latents of a picture, a square if one side is given. Raises: ModelError."""
        width_px = height_px if width_px is None else width_px
        if height_px % self.multiple_px or width_px % self.multiple_px:
            raise ModelError(f"data.resolution_px is {height_px}; this model needs a multiple of {self.multiple_px}.")
        most_px = self.multiple_px * self.family.most_patches(self.denoiser.config)
        if max(height_px, width_px) > most_px:
            raise ModelError(f"data.resolution_px is {height_px}; this model takes pictures of {most_px} px at most.")
        factor = self.family.factor(self.vae.config)
        return self.vae.config["latent_channels"], height_px // factor, width_px // factor


def encode_prompts(model: DiffusionModel, prompts: list[str]) -> Conditioning:
    """What the pipeline itself computes from `prompts`; longer ones are cut at the tokenizer's length."""
    texts = [encode_text(model, index, prompts) for index in range(len(model.text_encoders))]
    return model.family.joined(texts, model.text_width)


@torch.no_grad()
def encode_text(model: DiffusionModel, index: int, prompts: list[str]) -> TextStates:
    """What text encoder `index` alone makes of `prompts`.

    An empty prompt becomes what the pipeline's guidance uses in its place, zeros where
    `force_zeros_for_empty_prompt` says so, because that is what training on empty prompts is for.
    """
    encoder = model.text_encoders[index]
    states, pooled = model.family.text_states(encoder, index, text_tokens(model, index, prompts).to(encoder.device))
    if model.zero_empty_prompt:
        keep = torch.tensor([prompt != "" for prompt in prompts], device=states.device)
        states, pooled = states * keep[:, None, None], None if pooled is None else pooled * keep[:, None]
    return TextStates(states, pooled)


def text_tokens(model: DiffusionModel, index: int, prompts: list[str]) -> Int[Tensor, "prompt token"]:
    tokenizer, limit = model.tokenizers[index], _token_limit(model, index)
    encoded = tokenizer(prompts, padding="max_length", max_length=limit, truncation=True, return_tensors="pt")
    tokens: Tensor = encoded.input_ids
    return tokens


def _token_limit(model: DiffusionModel, index: int) -> int:
    return model.family.text[index].tokens or model.tokenizers[index].model_max_length


def prompts_cut(model: DiffusionModel, prompts: list[str]) -> int:
    """How many prompts are longer than the first text encoder takes, and are cut at its length."""
    limit = _token_limit(model, 0)
    return sum(len(ids) > limit for ids in model.tokenizers[0](prompts, truncation=False).input_ids) if prompts else 0


def denoise(
    denoiser: torch.nn.Module, noisy: Latents, timesteps: Num[Tensor, " image"], conditioning: Conditioning
) -> Latents:
    """The denoiser's prediction (epsilon, v, or the flow, as the model was trained), for every family."""
    return conditioning.denoise(denoiser, noisy, timesteps)


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
