"""A Stable Diffusion XL in shape only, for tests: two text encoders, pooled prompts, time ids; untrained."""

from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from benchmarks.demo_world.diffusion import make_scheduler
from benchmarks.demo_world.lexicon import CONTEXT_LENGTH, END, make_tokenizer

WIDTH_1, WIDTH_2, PROJECTION = 16, 24, 24
TIME_ID_DIM = 8  # features of each of the six time ids


def make_sdxl(seed: int, vae: Any) -> Any:
    """The twin; it borrows the trained autoencoder so that its pictures decode to something."""
    torch.manual_seed(seed)
    tokenizers = make_tokenizer(END), make_tokenizer("!")  # SDXL's second tokenizer pads with "!"
    pipeline: Any = StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(_text_config(tokenizers[0], WIDTH_1)),
        text_encoder_2=CLIPTextModelWithProjection(_text_config(tokenizers[1], WIDTH_2)),
        tokenizer=tokenizers[0],
        tokenizer_2=tokenizers[1],
        unet=_make_unet(),
        scheduler=make_scheduler(),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _text_config(tokenizer: CLIPTokenizer, width: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=PROJECTION,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=CONTEXT_LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _make_unet() -> Any:
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        transformer_layers_per_block=(1, 1),
        cross_attention_dim=WIDTH_1 + WIDTH_2,
        attention_head_dim=2,
        norm_num_groups=4,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=TIME_ID_DIM,
        projection_class_embeddings_input_dim=PROJECTION + 6 * TIME_ID_DIM,
    )
