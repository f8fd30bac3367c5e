"""A small Stable Diffusion with random weights, and pairs of noise for it, as shards and as a peer's Parquet."""

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from schemas import shards as names

RESOLUTION_PX = 128
PAIRS = 48
RANK = 8
LEARNING_RATE = 1e-5
WIDTH = 64  # of the text encoder
TOKENS = 77


def write_model(folder: Path) -> None:
    """Channels chosen so that encoding an image is 1.4 times a U-Net forward of it, as in SD1.5 at 512."""
    torch.manual_seed(0)
    channels, vae_channels = (64, 128, 256, 256), (24, 48, 96, 96)
    down = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
    up = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
    parts: dict[str, Any] = {
        "vae": AutoencoderKL(
            block_out_channels=vae_channels,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            norm_num_groups=8,
            sample_size=RESOLUTION_PX,
            scaling_factor=0.18215,
        ),
        "unet": UNet2DConditionModel(
            sample_size=RESOLUTION_PX // 8,
            block_out_channels=channels,
            down_block_types=down,
            up_block_types=up,
            norm_num_groups=8,
            cross_attention_dim=WIDTH,
        ),
        "text_encoder": CLIPTextModel(text_config()).eval(),
        "tokenizer": tokenizer(),
        "scheduler": DDPMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
        ),
    }
    unchecked: dict[str, Any] = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    StableDiffusionPipeline(**parts, **unchecked).save_pretrained(folder)


def text_config() -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=54,
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )


def tokenizer() -> CLIPTokenizer:
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    return CLIPTokenizer(vocab={word: index for index, word in enumerate(words)}, merges=[], model_max_length=TOKENS)


def write_pairs(
    parquet: Path | None,
    shards: Path | None,
    order: list[int] | None = None,
    *,
    side_px: int = RESOLUTION_PX,
    pairs: int = PAIRS,
) -> None:
    """All pairs, or those of `order` one after the other: as a Parquet like Pick-a-Pic's, as shards, or both."""
    every = [(picture(2 * index, side_px), picture(2 * index + 1, side_px)) for index in range(pairs)]
    if parquet is not None:
        _write_parquet(parquet, every, list(range(pairs)) if order is None else order)
    if shards is not None:
        _write_shards(shards, every)


def _write_parquet(folder: Path, every: list[tuple[bytes, bytes]], order: list[int]) -> None:
    folder.mkdir(parents=True)
    columns = {
        "jpg_0": [every[index][0] for index in order],
        "jpg_1": [every[index][1] for index in order],
        "label_0": [1.0] * len(order),
        "caption": [prompt(index) for index in order],
    }
    pq.write_table(pa.table(columns), folder / "train-00000-of-00001.parquet")


def prompt(index: int) -> str:
    return f"a picture {chr(ord('a') + index % 26)}"


def picture(seed: int, side_px: int) -> bytes:
    """A JPEG of smooth noise, as large to decode as a picture of its size."""
    coarse = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    image = Image.fromarray(coarse).resize((side_px, side_px), Image.Resampling.BICUBIC)
    image.save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def _write_shards(folder: Path, pairs: list[tuple[bytes, bytes]]) -> None:
    folder.mkdir(parents=True)
    path = folder / names.SHARD_NAME.format(index=0)
    with tarfile.open(path, "w") as tar:
        for rank, (preferred, rejected) in enumerate(pairs, start=1):
            sides = {names.PREFERRED: preferred, names.REJECTED: rejected}
            meta = {side: {"sha256": hashlib.sha256(data).hexdigest()} for side, data in sides.items()}
            members = {f"{side}.jpg": data for side, data in sides.items()}
            members |= {
                names.PROMPT: prompt(rank - 1).encode(),
                names.META: json.dumps({"quality": 1.0} | meta).encode(),
            }
            for member, data in sorted(members.items()):
                info = tarfile.TarInfo(f"{rank:0{names.KEY_DIGITS}d}.{member}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    data = path.read_bytes()
    entry = {"file": path.name, "samples": len(pairs), "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    index = {"format": names.INDEX_FORMAT, "dataset": "noise", "pairs": len(pairs), "shards": [entry]}
    (folder / names.SHARD_INDEX).write_text(json.dumps(index))
