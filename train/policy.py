"""The policy that is trained and the frozen reference that it is held to."""

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import cast

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

from train.config import Recipe
from train.latents import Batch
from train.loss import PairErrors, prediction_mse
from train.models import DiffusionModel, add_lora, add_noise, denoise

Reference = Callable[[], AbstractContextManager[torch.nn.Module]]  # enter it to have the frozen U-Net


def make_policy(
    model: DiffusionModel, recipe: Recipe, device: torch.device, dtype: torch.dtype
) -> tuple[UNet2DConditionModel, Reference]:
    """The U-Net to train, on `device`, and its reference.

    Full fine-tune: float32 weights, and a frozen copy in `dtype`. LoRA: frozen weights in `dtype` under
    float32 adapters; the reference is the same U-Net with its adapters off, so there is no second copy.
    Raises: ModelError when no layer matches the LoRA's targets.
    """
    unet, module = model.unet, cast(torch.nn.Module, model.unet)
    if recipe.lora is None:
        frozen = copy.deepcopy(module).to(device, dtype)
        module.requires_grad_(True).to(device)
        reference: Reference = lambda: nullcontext(frozen)  # noqa: E731
    else:
        module.to(device, dtype)
        add_lora(unet, recipe.lora, recipe.run.seed)
        reference = lambda: _adapters_off(unet)  # noqa: E731
    if recipe.run.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    return unet.train(), reference


@contextmanager
def _adapters_off(unet: UNet2DConditionModel) -> Iterator[torch.nn.Module]:
    unet.disable_adapters()
    try:
        yield unet
    finally:
        unet.enable_adapters()


def pair_errors(policy: torch.nn.Module, reference: Reference, scheduler: DDPMScheduler, batch: Batch) -> PairErrors:
    """Squared errors of policy and reference on both sides: one forward of 2 * pair images each."""
    latents, noise, timesteps = batch.both_sides()
    noisy, target = add_noise(scheduler, latents, noise, timesteps)
    with torch.no_grad(), reference() as frozen:
        reference_mse = prediction_mse(denoise(frozen, noisy, timesteps, batch.conditioning), target)
    policy_mse = prediction_mse(denoise(policy, noisy, timesteps, batch.conditioning), target)
    return PairErrors(*policy_mse.chunk(2), *reference_mse.chunk(2))
