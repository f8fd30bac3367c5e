"""Stable Diffusion 1.x and 2.x: a U-Net over the last states of one CLIP."""

from typing import Any, ClassVar

from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

from train.model.families.family import CLIP_TOKENS, Family, TextEncoder, TextStates, Tokens


class StableDiffusion(Family):
    """Also what SDXL has of it: a U-Net that halves its input from block to block, and DDPM's noise."""

    name = "sd"
    presets: ClassVar[tuple[str, ...]] = ("sd15", "sd15-lora")
    example = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    pipeline = "StableDiffusionPipeline"
    denoiser_name = "unet"
    denoiser = "UNet2DConditionModel"
    scheduler = DDPMScheduler
    text: ClassVar[tuple[TextEncoder, ...]] = (TextEncoder("CLIPTextModel", "CLIPTokenizer"),)
    single_files: ClassVar[tuple[str, ...]] = ("v1", "v2")

    def patch(self, denoiser: Any) -> int:
        return int(2 ** (len(denoiser["block_out_channels"]) - 1))

    def text_shapes(self, denoiser: Any) -> list[tuple[int, int, int | None]]:
        return [(CLIP_TOKENS, denoiser["cross_attention_dim"], None)]

    def text_states(self, encoder: Any, index: int, tokens: Tokens) -> TextStates:
        return TextStates(encoder(tokens.ids).last_hidden_state)
