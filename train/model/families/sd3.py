"""Stable Diffusion 3 and 3.5: a transformer over two CLIPs and T5, which may be left out."""

import math
from typing import Any, ClassVar

import torch
from torch.nn import functional as F

from train.model.families.family import CLIP_TOKENS, Conditioning, Family, TextEncoder, TextStates, Tokens
from train.model.families.sdxl import penultimate

T5_TOKENS = 256  # what the pipeline gives its third encoder


class StableDiffusion3(Family):
    name = "sd3"
    presets: ClassVar[tuple[str, ...]] = ("sd3",)
    example = "stabilityai/stable-diffusion-3.5-medium"
    pipeline = "StableDiffusion3Pipeline"
    denoiser = "SD3Transformer2DModel"
    text: ClassVar[tuple[TextEncoder, ...]] = (
        TextEncoder("CLIPTextModelWithProjection", "CLIPTokenizer", ("states", "pooled")),
        TextEncoder("CLIPTextModelWithProjection", "CLIPTokenizer", ("states", "pooled")),
        TextEncoder("T5EncoderModel", "T5Tokenizer", tokens=T5_TOKENS),
    )
    single_files: ClassVar[tuple[str, ...]] = ("sd3", "sd35_medium", "sd35_large")

    def most_patches(self, denoiser: Any) -> int | float:
        return denoiser.get("pos_embed_max_size") or math.inf

    def text_width(self, denoiser: Any) -> int:
        return int(denoiser["joint_attention_dim"])

    def text_shapes(self, denoiser: Any) -> list[tuple[int, int, int | None]]:
        pooled = denoiser["pooled_projection_dim"]
        return [(CLIP_TOKENS, pooled, pooled), (CLIP_TOKENS, 0, None), (T5_TOKENS, self.text_width(denoiser), None)]

    def text_states(self, encoder: Any, index: int, tokens: Tokens) -> TextStates:
        if index == 2:
            return TextStates(encoder(tokens.ids).last_hidden_state)
        return penultimate(encoder, tokens, pooled=True)

    def joined(self, texts: list[TextStates], text_width: int) -> Conditioning:
        """CLIP's states, filled up with zeros to T5's width, then T5's tokens: zeros if it is absent."""
        clip = super().joined(texts[:2], text_width)
        states = F.pad(clip.prompt_embeds, (0, text_width - clip.prompt_embeds.shape[-1]))
        t5 = [text.states for text in texts[2:] if text.states is not None]
        t5 = t5 or [states.new_zeros(len(states), T5_TOKENS, text_width)]
        return Conditioning(torch.cat([states, *t5], dim=-2), clip.pooled_embeds)
