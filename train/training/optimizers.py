"""What takes the steps, and a moving average of the weights that they lead to."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from transformers.optimization import Adafactor

from train.config import Optimizer
from train.errors import SettingsError
from train.model.fsdp import spread_like

Parameters = dict[str, Parameter]


def make_optimizer(optimizer: Optimizer, parameters: Parameters, device: torch.device) -> torch.optim.Optimizer:
    """The optimizer that the recipe names. Raises: SettingsError when it needs a package that is not there."""
    trained = _groups(optimizer, parameters)
    common: dict[str, Any] = {"lr": optimizer.learning_rate, "weight_decay": optimizer.weight_decay}
    adam = {**common, "betas": optimizer.betas, "eps": optimizer.epsilon}
    if optimizer.name == "adamw8bit":
        chosen: torch.optim.Optimizer = _bitsandbytes().optim.AdamW8bit(trained, **adam)
        return chosen
    if optimizer.name == "adafactor":  # as SalesforceAIResearch/DiffusionDPO sets it: the rate is what it says
        return Adafactor(trained, **common, clip_threshold=1.0, scale_parameter=False, relative_step=False)
    # On the CPU the plain form unless asked: the other rounds otherwise, and runs there stay what they were.
    fused = device.type == "cuda" if optimizer.fused is None else optimizer.fused
    return torch.optim.AdamW(trained, **adam, fused=fused or None)


def _groups(optimizer: Optimizer, parameters: Parameters) -> list[Any]:
    """All alike; with LoRA+ its second matrices in a group of their own, which learns `ratio` times faster."""
    ratio = optimizer.lora_b_ratio
    if ratio == 1:
        return list(parameters.values())
    second = [value for name, value in parameters.items() if ".lora_B." in name]
    others = [value for name, value in parameters.items() if ".lora_B." not in name]
    return [{"params": others}, {"params": second, "ratio": ratio}]


def _bitsandbytes() -> Any:
    try:
        import bitsandbytes
    except ImportError as error:
        raise SettingsError(
            'optimizer.name "adamw8bit" needs the package bitsandbytes; install pairsieve[bitsandbytes],'
            ' or take "adafactor".'
        ) from error
    return bitsandbytes


class MovingAverage:
    """An exponential moving average of the parameters, in float32 whatever they are in."""

    def __init__(self, parameters: Parameters, decay: float) -> None:
        self.decay = decay
        self.averages = {name: value.detach().float().clone() for name, value in parameters.items()}

    @torch.no_grad()
    def update(self, parameters: Parameters) -> None:
        """average <- decay * average + (1 - decay) * weight"""
        values = [parameter.detach().float() for parameter in parameters.values()]
        torch._foreach_lerp_(list(self.averages.values()), values, 1 - self.decay)

    def load(self, averages: dict[str, Tensor]) -> None:
        for name, average in self.averages.items():
            average.copy_(spread_like(averages[name], average))

    @torch.no_grad()
    def copy_to(self, parameters: Parameters) -> None:
        for name, parameter in parameters.items():
            parameter.copy_(self.averages[name])


def set_learning_rate(torch_optimizer: torch.optim.Optimizer, optimizer: Optimizer, step: int, steps: int) -> float:
    """The rate of step `step` of `steps`, counted from 0: warm-up to the full rate at `warmup_steps`, then `schedule`.

    linear and cosine would reach 0 in the step after the last.
    """
    share = min(1.0, (step + 1) / max(1, optimizer.warmup_steps))
    if optimizer.schedule != "constant" and step >= optimizer.warmup_steps:
        left = (steps - step) / (steps - optimizer.warmup_steps)
        share = left if optimizer.schedule == "linear" else 0.5 * (1 - math.cos(math.pi * left))
    rate = optimizer.learning_rate * share
    for group in torch_optimizer.param_groups:
        group["lr"] = rate * group.get("ratio", 1.0)
    return rate
