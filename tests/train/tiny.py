"""Tiny models with random weights, in the folder layout of diffusers, and tiny shards: made in code."""

import hashlib
import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from diffusers.models.transformers.transformer_z_image import ZImageTransformer2DModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import StableDiffusion3Pipeline
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
from diffusers.pipelines.z_image.pipeline_z_image import ZImagePipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from PIL import Image
from tokenizers import pre_tokenizers
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from schemas import shards as names

RESOLUTION_PX = 32
UNCHECKED: dict[str, Any] = {"safety_checker": None, "feature_extractor": None}
COLOURS = {"red": (200, 40, 40), "green": (40, 180, 60), "blue": (40, 60, 210)}


def tokenizer(max_length: int = 12) -> CLIPTokenizer:
    """A CLIP tokenizer over single characters: any prompt of a-z can be written with it."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    vocabulary = {word: index for index, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=max_length)


def text_config(width: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=54,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=12,
        projection_dim=width,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )


def vae(**options: Any) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=options.pop("latent_channels", 4),
        norm_num_groups=4,
        sample_size=RESOLUTION_PX,
        scaling_factor=0.5,
        **options,
    )


def unet(cross_attention_dim: int, **options: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=RESOLUTION_PX // 2,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        cross_attention_dim=cross_attention_dim,
        **options,
    )


def scheduler(prediction_type: str = "epsilon") -> Any:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        steps_offset=1,
        prediction_type=prediction_type,
    )


def save_sd(folder: Path, *, prediction_type: str = "epsilon", seed: int = 0) -> Path:
    """A StableDiffusionPipeline folder of about 50,000 random weights."""
    torch.manual_seed(seed)
    StableDiffusionPipeline(
        vae=vae(),
        text_encoder=CLIPTextModel(text_config(16)).eval(),
        tokenizer=tokenizer(),
        unet=unet(16),
        scheduler=scheduler(prediction_type),
        requires_safety_checker=False,
        **UNCHECKED,
    ).save_pretrained(folder)
    return folder


def save_sdxl(folder: Path) -> Path:
    """A StableDiffusionXLPipeline folder: two text encoders, time ids, a pooled embedding."""
    torch.manual_seed(0)
    time_dim = 8
    StableDiffusionXLPipeline(
        vae=vae(),
        text_encoder=CLIPTextModel(text_config(16)).eval(),
        text_encoder_2=CLIPTextModelWithProjection(text_config(24)).eval(),
        tokenizer=tokenizer(),
        tokenizer_2=tokenizer(),
        unet=unet(
            16 + 24,
            addition_embed_type="text_time",
            addition_time_embed_dim=time_dim,
            projection_class_embeddings_input_dim=24 + 6 * time_dim,
        ),
        scheduler=scheduler(),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    ).save_pretrained(folder)
    return folder


@dataclass
class ShardSample:
    """One sample to be written; tests change a field to make it unsound."""

    key: str
    members: dict[str, bytes]


def picture(colour: str, seed: int, size: tuple[int, int] = (RESOLUTION_PX, RESOLUTION_PX)) -> bytes:
    """PNG bytes: one colour under noise, with a bright left edge so that a flip shows."""
    noise = np.random.default_rng(seed).integers(-30, 30, (size[1], size[0], 3))
    pixels = np.clip(np.array(COLOURS[colour]) + noise, 0, 255).astype(np.uint8)
    pixels[:, : size[0] // 4] = 255
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def size_of(data: bytes) -> dict[str, int]:
    """Width and height of an image, nothing of what is none."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return {"width": image.width, "height": image.height}
    except OSError:
        return {}


def sample(rank: int, prompt: str, preferred: bytes, rejected: bytes) -> ShardSample:
    sides = {
        side: {"image_uid": f"{side}-{rank}", "sha256": hashlib.sha256(data).hexdigest(), "format": "PNG"}
        | size_of(data)
        for side, data in ((names.PREFERRED, preferred), (names.REJECTED, rejected))
    }
    scores = {"clip": {names.PREFERRED: 0.5 / rank, names.REJECTED: 0.0}}
    meta = {"pair_id": f"pair-{rank}", "prompt_id": prompt, "quality": 1 / rank, "rank": rank, "scores": scores} | sides
    return ShardSample(
        key=f"{rank:0{names.KEY_DIGITS}d}",
        members={
            f"{names.PREFERRED}.png": preferred,
            f"{names.REJECTED}.png": rejected,
            names.PROMPT: prompt.encode(),
            names.META: json.dumps(meta).encode(),
        },
    )


def samples(count: int = 6) -> list[ShardSample]:
    """`count` pairs over three prompts; of each prompt one picture, in the named colour, wins over others."""
    colours = list(COLOURS)
    return [
        sample(
            rank,
            f"{colours[rank % 3]} box",
            picture(colours[rank % 3], seed=0),
            picture(colours[(rank + 1) % 3], seed=100 + rank),
        )
        for rank in range(1, count + 1)
    ]


def write_shards(folder: Path, *tars: list[ShardSample]) -> Path:
    """Tars and their shards.json, as `curate export-shards` writes them."""
    folder.mkdir(parents=True)
    entries = []
    for index, tar_samples in enumerate(tars):
        path = folder / names.SHARD_NAME.format(index=index)
        with tarfile.open(path, "w") as tar:
            for one in tar_samples:
                for member, data in one.members.items():
                    info = tarfile.TarInfo(f"{one.key}.{member}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
        entries.append(index_entry(path, len(tar_samples)))
    write_index(folder, entries)
    return folder


def index_entry(path: Path, count: int) -> dict[str, Any]:
    data = path.read_bytes()
    return {"file": path.name, "samples": count, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def write_index(folder: Path, entries: list[dict[str, Any]]) -> None:
    index = {
        "format": names.INDEX_FORMAT,
        "dataset": "tiny",
        "ranking": {"name": "tiny"},
        "extension": "png",
        "pairs": sum(entry["samples"] for entry in entries),
        "shards": entries,
    }
    (folder / names.SHARD_INDEX).write_text(json.dumps(index))


def reseal(folder: Path) -> None:
    """Write shards.json anew from the tars as they lie, keeping the counts: hides a change from the hashes."""
    index = json.loads((folder / names.SHARD_INDEX).read_text())
    write_index(folder, [index_entry(folder / entry["file"], entry["samples"]) for entry in index["shards"]])


def t5_tokenizer() -> T5Tokenizer:
    """A T5 tokenizer over single characters."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -1.0), *((letter, -2.0) for letter in letters)]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=512)


def save_sd3(folder: Path, *, t5: bool = True) -> Path:
    """A StableDiffusion3Pipeline folder: a transformer, a flow-matching scheduler, T5 beside two CLIPs or not."""
    torch.manual_seed(0)
    width = 48  # of CLIP's 16 + 24 and T5's own
    config = T5Config(vocab_size=30, d_model=width, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=RESOLUTION_PX // 2,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=width,
            caption_projection_dim=16,
            pooled_projection_dim=16 + 24,
            pos_embed_max_size=16,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(shift_factor=0.1),
        text_encoder=CLIPTextModelWithProjection(text_config(16)).eval(),
        tokenizer=tokenizer(),
        text_encoder_2=CLIPTextModelWithProjection(text_config(24)).eval(),
        tokenizer_2=tokenizer(),
        text_encoder_3=T5EncoderModel(config).eval() if t5 else None,  # type: ignore[arg-type]
        tokenizer_3=t5_tokenizer() if t5 else None,
    ).save_pretrained(folder)
    return folder


def qwen_tokenizer() -> Qwen2Tokenizer:
    """A Qwen tokenizer over single bytes, with a conversation of its own form."""
    bytes_as_text = pre_tokenizers.ByteLevel.alphabet()
    found = Qwen2Tokenizer(vocab={text: index for index, text in enumerate(["<|endoftext|>", *sorted(bytes_as_text)])})
    found.chat_template = "{% for one in messages %}{{ one.role }}: {{ one.content }}\n{% endfor %}assistant:"
    return found


def qwen_config(layers: int = 2, width: int = 16) -> Qwen3Config:
    return Qwen3Config(
        vocab_size=257,
        hidden_size=width,
        intermediate_size=width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=512,
    )


def save_zimage(folder: Path) -> Path:
    """A ZImagePipeline folder: a transformer that takes lists, a language model as text encoder."""
    torch.manual_seed(0)
    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=[8, 4, 4],
        axes_lens=[1024, 64, 64],
    )
    for token in (transformer.x_pad_token, transformer.cap_pad_token):
        torch.nn.init.normal_(token)
    ZImagePipeline(
        transformer=transformer,
        vae=vae(shift_factor=0.1),
        text_encoder=Qwen3Model(qwen_config()).eval(),
        tokenizer=qwen_tokenizer(),  # type: ignore[arg-type]
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    ).save_pretrained(folder)
    return folder


def save_outline_of_sd15(folder: Path) -> Path:
    """The configuration of SD1.5's denoiser and VAE at full size, without weights."""
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    with torch.device("meta"):
        UNet2DConditionModel(
            sample_size=64, block_out_channels=(320, 640, 1280, 1280), cross_attention_dim=768, attention_head_dim=8
        ).save_config(folder / "unet")
        AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
        ).save_config(folder / "vae")
    return folder
