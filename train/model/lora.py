"""Adapters on the denoiser, and what training changes."""

from typing import Any

import torch
from peft import LoraConfig

from train.config import Lora
from train.errors import ModelError

ADAPTER = "default"


def add_lora(denoiser: Any, lora: Lora, seed: int) -> None:
    """Add trainable float32 adapters; they start as zero, so policy = reference. Raises: ModelError.

    Their update is B A with B = 0. `lora.init` says what A is drawn from: `gaussian`, as diffusers' Diffusion-DPO
    scripts have it, with deviation 1 / rank; `kaiming`, peft's own, uniform with deviation 1 / sqrt(3 * inputs). At
    rank 8 and 320 to 1280 inputs that is 4 to 8 times smaller, and so are the first updates.
    With `lora.dora`, each weight's magnitude is trained beside its direction (DoRA, arXiv 2402.09353).
    """
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.rank if lora.alpha is None else lora.alpha,
        target_modules=list(lora.targets),
        init_lora_weights="gaussian" if lora.init == "gaussian" else True,
        use_dora=lora.dora,
    )
    with torch.random.fork_rng(devices=[]):  # adapters are drawn on the CPU; all GPUs would be asked, with a warning
        torch.manual_seed(seed)
        try:
            denoiser.add_adapter(config, adapter_name=ADAPTER)
        except ValueError as error:
            raise ModelError(f"No layer of the denoiser matches lora.targets {list(lora.targets)}.") from error
    for parameter in trainable(denoiser).values():
        parameter.data = parameter.data.float()


def trainable(denoiser: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The parameters that training changes, by name."""
    return {name: parameter for name, parameter in denoiser.named_parameters() if parameter.requires_grad}
