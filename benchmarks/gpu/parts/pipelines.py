"""Diffusion pipelines of random weights, at the published sizes or tiny, and pairs of pictures to train them on."""

from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import StableDiffusion3Pipeline
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from benchmarks.speed.small_sd import tokenizer

CROSS_DOWN, CROSS_UP = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"
XL_TIME = {"addition_embed_type": "text_time", "use_linear_projection": True}
# The numbers of the published config.json files: stable-diffusion-v1-5, stable-diffusion-xl-base-1.0.
UNETS: dict[str, dict[str, Any]] = {
    "sd15": {
        "sample_size": 64,
        "block_out_channels": (320, 640, 1280, 1280),
        "attention_head_dim": 8,
        "cross_attention_dim": 768,
    },
    "sdxl": {
        "sample_size": 128,
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", CROSS_DOWN, CROSS_DOWN),
        "up_block_types": (CROSS_UP, CROSS_UP, "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20),
        "cross_attention_dim": 2048,
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
        **XL_TIME,
    },
}
TINY = {
    "sample_size": 8,
    "block_out_channels": (8, 16),
    "down_block_types": ("DownBlock2D", CROSS_DOWN),
    "up_block_types": (CROSS_UP, "UpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 4,
}
UNETS |= {
    "tiny-sd15": TINY | {"cross_attention_dim": 16},
    "tiny-sdxl": TINY
    | XL_TIME
    | {
        "cross_attention_dim": 16 + 24,
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 24 + 6 * 8,
    },
}
# CLIP's ViT-L/14 and OpenCLIP's ViT-bigG/14: width, inner width, layers, heads, activation.
TEXT = {
    "l": (768, 3072, 12, 12, "quick_gelu"),
    "g": (1280, 5120, 32, 20, "gelu"),
    "tiny": (16, 32, 2, 2, "quick_gelu"),
    "tiny-g": (24, 48, 2, 2, "gelu"),
}


def write_pipeline(folder: Path, size: str, device: str) -> Path:
    """A pipeline of size `sd15`, `sdxl`, `tiny-sd15`, `tiny-sdxl` or `tiny-sd3`, made on `device`, saved in float16.

    Tiny ones are kept in float32, so that devices can be compared.
    """
    torch.manual_seed(0)
    with torch.device(device):
        pipeline = _sd3() if size == "tiny-sd3" else _unet_pipeline(size)
    if not size.startswith("tiny"):
        pipeline.to(torch.float16)
    pipeline.save_pretrained(folder)
    return folder


def _unet_pipeline(size: str) -> Any:
    tiny, scaling = size.startswith("tiny"), 0.13025 if size.endswith("sdxl") else 0.18215
    parts: dict[str, Any] = {
        "vae": vae(tiny, scaling_factor=scaling),
        "unet": UNet2DConditionModel(**UNETS[size]),
        "text_encoder": CLIPTextModel(text_config("tiny" if tiny else "l")).eval(),
        "tokenizer": tokenizer(),
        "scheduler": DDPMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
        ),
    }
    if size.endswith("sdxl"):
        second = CLIPTextModelWithProjection(text_config("tiny-g" if tiny else "g")).eval()
        return StableDiffusionXLPipeline(text_encoder_2=second, tokenizer_2=tokenizer(), add_watermarker=False, **parts)
    unchecked: dict[str, Any] = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return StableDiffusionPipeline(**parts, **unchecked)


def _sd3() -> Any:
    """A tiny one, without its third text encoder."""
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=48,
        caption_projection_dim=16,
        pooled_projection_dim=16 + 24,
        pos_embed_max_size=16,
    )
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(tiny=True, scaling_factor=1.5, shift_factor=0.06),
        text_encoder=CLIPTextModelWithProjection(text_config("tiny")).eval(),
        tokenizer=tokenizer(),
        text_encoder_2=CLIPTextModelWithProjection(text_config("tiny-g")).eval(),
        tokenizer_2=tokenizer(),
        text_encoder_3=None,  # type: ignore[arg-type]
        tokenizer_3=None,
    )


def vae(tiny: bool, **options: Any) -> AutoencoderKL:
    """Eight pixels a side to a latent value, as the published ones."""
    channels = (8, 8, 8, 8) if tiny else (128, 256, 512, 512)
    return AutoencoderKL(
        block_out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1 if tiny else 2,
        norm_num_groups=4 if tiny else 32,
        **options,
    )


def text_config(size: str) -> CLIPTextConfig:
    """As published, but for a vocabulary of single letters."""
    width, inner, layers, heads, activation = TEXT[size]
    return CLIPTextConfig(
        vocab_size=54,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        hidden_act=activation,
        projection_dim=width,
        max_position_embeddings=77,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
