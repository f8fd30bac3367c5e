"""The denoiser: an MLP-Mixer of 0.29 M parameters over 16 x 16 px, cheap enough for hundreds of runs on a CPU.

It is called as diffusers calls its own, so `denoise`, the policy and the LoRA of `train.model` take it as they take
Stable Diffusion's U-Net.
"""

from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders.peft import PeftAdapterMixin
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.models.modeling_utils import ModelMixin
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

PATCH_PX = 4
TIME_CHANNELS = 32
LORA_TARGETS = ("mix_in", "mix_out", "wide_in", "wide_out", "modulation")


class MixerBlock(nn.Module):
    """Places are mixed within a channel, then channels within a place (arXiv 2105.01601, fig. 1); what is told (time
    and prompt) scales and shifts the input of both (arXiv 2212.09748, adaptive layer norm).
    """

    def __init__(self, places: int, width: int, told: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(told, 4 * width)
        self.mix_in, self.mix_out = nn.Linear(places, 3 * places), nn.Linear(3 * places, places)
        self.wide_in, self.wide_out = nn.Linear(width, 3 * width), nn.Linear(3 * width, width)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        scale1, shift1, scale2, shift2 = self.modulation(told)[:, None].chunk(4, dim=-1)
        places = (_normalised(x) * (1 + scale1) + shift1).transpose(1, 2)
        x = x + self.mix_out(F.gelu(self.mix_in(places))).transpose(1, 2)
        channels = _normalised(x) * (1 + scale2) + shift2
        mixed: Tensor = self.wide_out(F.gelu(self.wide_in(channels)))
        return x + mixed


def _normalised(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:])


class TinyDenoiser(ModelMixin, ConfigMixin, PeftAdapterMixin):  # type: ignore[misc]
    """Predicts the velocity of noisy pictures from patches of 4 x 4 px. One linear layer of the prompt and the time
    says what lies where.
    """

    @register_to_config
    def __init__(
        self, prompt_values: int = 48, width: int = 64, depth: int = 3, told: int = 96, side_px: int = 16
    ) -> None:
        super().__init__()
        places, values = (side_px // PATCH_PX) ** 2, 3 * PATCH_PX**2
        self.told_time = nn.Sequential(nn.Linear(TIME_CHANNELS, told), nn.SiLU(), nn.Linear(told, told))
        self.told_prompt = nn.Sequential(nn.Linear(prompt_values, told), nn.SiLU(), nn.Linear(told, told))
        self.patch_in, self.patch_out = nn.Linear(values, width), nn.Linear(width, values)
        self.place = nn.Parameter(torch.zeros(places, width))
        self.layout = nn.Linear(told, places * width)
        self.blocks = nn.ModuleList(MixerBlock(places, width, told) for _ in range(depth))

    def forward(
        self,
        noisy: Float[Tensor, "image 3 side side"],
        timestep: Int[Tensor, " image"],
        encoder_hidden_states: Float[Tensor, "image token width"],
        return_dict: bool = False,
    ) -> tuple[Float[Tensor, "image 3 side side"]]:
        time = get_timestep_embedding(timestep, TIME_CHANNELS, flip_sin_to_cos=True, downscale_freq_shift=0)
        told = F.silu(self.told_time(time) + self.told_prompt(encoder_hidden_states.flatten(1)))
        patches = F.pixel_unshuffle(noisy, PATCH_PX)
        x = self.patch_in(patches.flatten(2).transpose(1, 2)) + self.place
        x = x + self.layout(told).view_as(x)
        for block in self.blocks:
            x = block(x, told)
        predicted = self.patch_out(_normalised(x)).transpose(1, 2).unflatten(2, patches.shape[2:])
        return (F.pixel_shuffle(predicted, PATCH_PX),)


def make_denoiser(seed: int, **options: Any) -> TinyDenoiser:
    """With random weights that the seed decides."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return TinyDenoiser(**options)
