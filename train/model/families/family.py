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
from jaxtyping import Bool, Float, Int, Num
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
    mask: Bool[Tensor, "image token"] | None = None  # false where a prompt is filled up; absent: nowhere

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


class Tokens(NamedTuple):
    """Prompts as a text encoder reads them; the mask is 0 where they are filled up."""

    ids: Int[Tensor, "prompt token"]
    mask: Int[Tensor, "prompt token"]


class TextStates(NamedTuple):
    """What one text encoder makes of prompts: those parts that the family takes from it.

    mask: of an encoder whose prompts have lengths of their own; false where one is filled up to the longest.
    """

    states: Float[Tensor, "prompt token width"] | None
    pooled: Float[Tensor, "prompt pooled"] | None = None
    mask: Bool[Tensor, "prompt token"] | None = None


class TextEncoder(NamedTuple):
    """Classes of transformers. tokens: what prompts are cut or filled up to; absent: the tokenizer's own length."""

    encoder: str
    tokenizer: str
    gives: tuple[str, ...] = ("states",)  # parts of TextStates
    tokens: int | None = None
    ragged: bool = False  # what fills prompts up is left away


class Family:
    """One family of models. Classes are named as diffusers and transformers name them."""

    name: str  # in the latent cache's keys, too: never to be changed
    presets: ClassVar[tuple[str, ...]] = ()  # the first is the one to take; none where no recipe is published
    example: str  # a model of it that can be trained, on the hub
    pipeline: str
    denoiser_name = "transformer"
    denoiser: str
    vae = "AutoencoderKL"
    scheduler: Any = FlowMatchEulerDiscreteScheduler
    text: ClassVar[tuple[TextEncoder, ...]]
    single_files: ClassVar[tuple[str, ...]] = ()  # the kinds of one-file checkpoints, as diffusers names them
    has_time_ids = False
    half = torch.float16  # to draw in
    guidance = 7.5  # to draw with, as its pipeline counts it
    drawn_px = 1024  # the side of a picture where its denoiser's configuration names none
    conditioning: type[Conditioning] = Conditioning
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

    def latent_shape(self, denoiser: Any, vae: Any, height_px: int, width_px: int) -> LatentShape:
        """(channel, height, width) of the latents of a picture. Raises: ModelError."""
        factor = self.factor(vae)
        multiple_px = factor * self.patch(denoiser)
        if height_px % multiple_px or width_px % multiple_px:
            raise ModelError(f"resolution_px is {height_px}; this model needs a multiple of {multiple_px}.")
        most_px = multiple_px * self.most_patches(denoiser)
        if max(height_px, width_px) > most_px:
            raise ModelError(f"resolution_px is {height_px}; this model takes pictures of {most_px} px at most.")
        return vae["latent_channels"], height_px // factor, width_px // factor

    def drawing(self, noise: Latents, factor: int, guidance: float) -> dict[str, Any]:
        """How its pipeline is called to draw from `noise`. factor: pixels to a latent value."""
        height, width = (factor * side for side in noise.shape[-2:])
        return {"latents": noise, "height": height, "width": width, "guidance_scale": guidance}

    def text_width(self, denoiser: Any) -> int:
        """Of the embeddings that the denoiser takes, where the encoders' own are brought to it."""
        return 0

    def text_shapes(self, denoiser: Any) -> list[tuple[int, int, int | None]]:
        """(tokens, width, pooled width) of each text encoder's states, or of several that stand side by side as one."""
        raise NotImplementedError

    def asked(self, tokenizer: Any, prompt: str) -> str:
        """The text that the tokenizer is given: the prompt, or a conversation about it."""
        return prompt

    def text_states(self, encoder: Any, index: int, tokens: Tokens) -> TextStates:
        """What text encoder `index` makes of tokens."""
        raise NotImplementedError

    def joined(self, texts: list[TextStates], text_width: int) -> Conditioning:
        """The encoders' states and pooled embeddings as the denoiser takes them: side by side, unless it is told."""
        pooled = [text.pooled for text in texts if text.pooled is not None]
        states = torch.cat([text.states for text in texts if text.states is not None], dim=-1)
        return self.conditioning(states, torch.cat(pooled, dim=-1) if pooled else None, mask=texts[-1].mask)

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
        return self.family.latent_shape(self.denoiser.config, self.vae.config, height_px, width_px)


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
    tokens = Tokens(*(one.to(encoder.device) for one in text_tokens(model, index, prompts)))
    found = model.family.text_states(encoder, index, tokens)
    if model.zero_empty_prompt:
        keep = torch.tensor([prompt != "" for prompt in prompts], device=encoder.device)
        states = None if found.states is None else found.states * keep[:, None, None]
        return TextStates(states, None if found.pooled is None else found.pooled * keep[:, None])
    if found.states is None or not model.family.text[index].ragged:
        return found
    mask = tokens.mask[:, -found.states.shape[1] :].bool()  # a conversation's beginning may be left away
    longest = int(mask.sum(1).max())
    states, mask = found.states[:, :longest], mask[:, :longest]
    return TextStates(states * mask[..., None], found.pooled, mask)


def text_tokens(model: DiffusionModel, index: int, prompts: list[str]) -> Tokens:
    tokenizer, limit = model.tokenizers[index], _token_limit(model, index)
    texts = [model.family.asked(tokenizer, prompt) for prompt in prompts]
    encoded = tokenizer(texts, padding="max_length", max_length=limit, truncation=True, return_tensors="pt")
    return Tokens(encoded.input_ids, encoded.attention_mask)


def _token_limit(model: DiffusionModel, index: int) -> int:
    return model.family.text[index].tokens or model.tokenizers[index].model_max_length


def prompts_cut(model: DiffusionModel, prompts: list[str]) -> list[int]:
    """How many prompts are longer than each text encoder takes, and are cut at its length."""
    found = []
    for index, tokenizer in enumerate(model.tokenizers):
        texts = [model.family.asked(tokenizer, prompt) for prompt in prompts]
        tokens = tokenizer(texts, truncation=False).input_ids if texts else []
        found.append(sum(len(ids) > _token_limit(model, index) for ids in tokens))
    return found


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
