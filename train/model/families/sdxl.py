"""Stable Diffusion XL, the base model: two CLIPs side by side, the second's pooled embedding, sizes and cut."""

from typing import Any, ClassVar

from train.model.families.family import CLIP_TOKENS, TextEncoder, TextStates, Tokens
from train.model.families.sd import StableDiffusion


def penultimate(encoder: Any, tokens: Tokens, *, pooled: bool) -> TextStates:
    """A CLIP's states before its last layer, and its projection if `pooled`, as SDXL and SD3 take them."""
    output = encoder(tokens.ids, output_hidden_states=True)
    return TextStates(output.hidden_states[-2], output.text_embeds if pooled else None)


class StableDiffusionXL(StableDiffusion):
    name = "sdxl"
    presets: ClassVar[tuple[str, ...]] = ("sdxl", "sdxl-lora")
    example = "stabilityai/stable-diffusion-xl-base-1.0"
    pipeline = "StableDiffusionXLPipeline"
    text: ClassVar[tuple[TextEncoder, ...]] = (
        TextEncoder("CLIPTextModel", "CLIPTokenizer"),
        TextEncoder("CLIPTextModelWithProjection", "CLIPTokenizer", ("states", "pooled")),
    )
    single_files: ClassVar[tuple[str, ...]] = ("xl_base",)
    has_time_ids = True
    vae_may_overflow = True

    def text_shapes(self, denoiser: Any) -> list[tuple[int, int, int | None]]:
        pooled = denoiser["projection_class_embeddings_input_dim"] - 6 * denoiser["addition_time_embed_dim"]
        return [(CLIP_TOKENS, denoiser["cross_attention_dim"], pooled)]

    def text_states(self, encoder: Any, index: int, tokens: Tokens) -> TextStates:
        return penultimate(encoder, tokens, pooled="pooled" in self.text[index].gives)
