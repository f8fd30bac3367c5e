"""The tiny Stable Diffusion: a text encoder and a U-Net over (4, 16, 16) latents, trained together.

diffusers gives its classes no types that a checker could follow, hence `Any` for its objects here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from benchmarks.demo_world.lexicon import CONTEXT_LENGTH, END, make_tokenizer
from benchmarks.demo_world.progress import Progress
from benchmarks.demo_world.scenes import random_scene, render
from benchmarks.demo_world.vae import to_tensor

BATCH_PICTURES = 16
SCENES = 12_000
PROMPT_DROPOUT = 0.1  # share of steps' pictures that see the empty prompt, for classifier-free guidance
EARLY_TIMESTEP, EARLY_SHARE = 750, 0.5  # half of the steps train where only the prompt can tell what to draw
WEIGHT_MAX = 100.0  # of a timestep, in the loss
TRAIN_TIMESTEPS = 1000


@dataclass(frozen=True)
class Phase:
    """A stretch of training with an optimizer of its own."""

    steps: int
    learning_rate: float
    ema_decay: float
    warm_up_steps: int
    decays: bool  # linearly to zero

    def rate_at(self, step: int) -> float:
        """Share of `learning_rate` at a step."""
        warm_up = min(1.0, 0.01 + 0.99 * step / self.warm_up_steps)
        return warm_up * (1 - step / self.steps if self.decays else 1.0)


# Stopped early on purpose: preferences can only teach where pictures differ.
PHASES = (
    Phase(2500, 1e-3, ema_decay=0.998, warm_up_steps=100, decays=False),
    Phase(500, 7e-4, ema_decay=0.99, warm_up_steps=20, decays=True),
)


@dataclass(frozen=True)
class LatentScenes:
    """Captions and the scaled latents of one drawing each, (n, 4, 16, 16)."""

    captions: list[str]
    latents: Tensor


def make_scheduler() -> Any:
    """The noise schedule of Stable Diffusion 1.5."""
    return DDIMScheduler(
        num_train_timesteps=TRAIN_TIMESTEPS,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="epsilon",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def make_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """A text encoder of 0.14 M parameters."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT_LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def make_unet() -> Any:
    """A U-Net of 1.0 M parameters that reads the prompt at 8 x 8, where reading is cheap."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=64,
        attention_head_dim=4,
        # The pooled prompt joins the time embedding, so that so small a net learns what a whole picture
        # shows before it learns where: the one thing that SD 1.5 does not have.
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
        norm_num_groups=8,
    )


def make_pipeline(seed: int, vae: Any, text_weights: Mapping[str, Tensor]) -> Any:
    """The pipeline with an untrained U-Net, and a text encoder that begins as a judge's, as SD's begins as CLIP's."""
    torch.manual_seed(seed)
    tokenizer = make_tokenizer(END)
    text_encoder = make_text_encoder(tokenizer)
    text_encoder.load_state_dict(text_weights)
    pipeline: Any = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=make_unet(),
        scheduler=make_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@torch.no_grad()
def encode_scenes(vae: Any, seed: int, left_out: Sequence[str], count: int = SCENES) -> LatentScenes:
    """Latents of `count` random scenes, none with a caption of `left_out`."""
    rng = np.random.default_rng(seed)
    held = set(left_out)
    scenes = [scene for scene in (random_scene(rng) for _ in range(count * 2)) if scene.caption not in held][:count]
    progress = Progress("encode scenes", count // 64 + 1)
    latents = []
    for start in range(0, count, 64):
        pictures = to_tensor([render(scene, rng) for scene in scenes[start : start + 64]])
        latents.append(vae.encode(pictures).latent_dist.mean * vae.config.scaling_factor)
        progress.step()
    return LatentScenes([scene.caption for scene in scenes], torch.cat(latents))


def train_diffusion(pipeline: Any, scenes: LatentScenes, seed: int) -> None:
    """Train text encoder and U-Net on epsilon prediction, phase after phase."""
    for number, phase in enumerate(PHASES):
        torch.manual_seed(seed + number)
        train_phase(pipeline, scenes, phase)


def train_phase(pipeline: Any, scenes: LatentScenes, phase: Phase) -> None:
    """One phase; the pipeline ends with the moving average of its weights."""
    modules = torch.nn.ModuleList([pipeline.text_encoder, pipeline.unet]).train()
    average = AveragedModel(modules, multi_avg_fn=get_ema_multi_avg_fn(phase.ema_decay))
    optimizer = torch.optim.AdamW(modules.parameters(), lr=phase.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, phase.rate_at)
    progress = Progress("diffusion", phase.steps)
    for _ in range(phase.steps):
        index = torch.randint(len(scenes.captions), (BATCH_PICTURES,))
        loss = denoising_loss(pipeline, scenes.latents[index], [scenes.captions[i] for i in index])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(modules.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        average.update_parameters(modules)
        progress.step(loss=loss.item())
    modules.load_state_dict(average.module.state_dict())
    modules.eval()


def denoising_loss(pipeline: Any, latents: Tensor, captions: list[str]) -> Tensor:
    """Weighted mean squared error of the predicted noise."""
    shown = ["" if torch.rand(()) < PROMPT_DROPOUT else caption for caption in captions]
    tokens = pipeline.tokenizer(shown, padding="max_length", truncation=True, return_tensors="pt")
    context = pipeline.text_encoder(tokens.input_ids)[0]
    noise = torch.randn_like(latents)
    timesteps = draw_timesteps(len(latents))
    noisy = pipeline.scheduler.add_noise(latents, noise, timesteps)
    error = pipeline.unet(noisy, timesteps, context).sample - noise
    return (error.square().mean(dim=(1, 2, 3)) * timestep_weights(pipeline.scheduler)[timesteps]).mean()


def draw_timesteps(count: int) -> Tensor:
    """(count,): uniform, but EARLY_SHARE of them above EARLY_TIMESTEP."""
    low = torch.where(torch.rand(count) < EARLY_SHARE, EARLY_TIMESTEP, 0)
    return low + (torch.rand(count) * (TRAIN_TIMESTEPS - low)).long()


def timestep_weights(scheduler: Any) -> Tensor:
    """(1000,): 1 / SNR between 1 and WEIGHT_MAX.

    Flat pictures are decided while noise is strong, where plain epsilon loss hardly looks: there it is
    the error of the picture times SNR.
    """
    signal = scheduler.alphas_cumprod
    return ((1 - signal) / signal).clamp(1.0, WEIGHT_MAX)
