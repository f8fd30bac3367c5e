"""The policy that is trained and the frozen reference that it is held to."""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import Parameter

from train.config import Recipe
from train.model.families import DiffusionModel, load, outline
from train.model.fsdp import on_host, spread
from train.model.lora import add_lora

MOST_COMPILED = 512
Reference = Callable[[], AbstractContextManager[torch.nn.Module]]  # enter it to have the frozen denoiser


def make_policy(
    model: DiffusionModel, recipe: Recipe, device: torch.device, dtype: torch.dtype, processes: int = 1
) -> tuple[torch.nn.Module, Reference]:
    """The denoiser to train, on `device`, and its reference.

    Full fine-tune: float32 weights, and a frozen copy in `dtype`, but for its norms. LoRA: such frozen weights under
    float32 adapters; the reference is the same denoiser with its adapters off, so there is no second copy.
    With `run.fsdp` both are spread over the processes. Where nothing looks at the reference, there is none; nor where
    it is a moving average, which `with_weights` makes of one. A reference that is another model is a copy in any case.
    Raises: ModelError when no layer matches the LoRA's targets.
    """
    denoiser: torch.nn.Module = model.denoiser
    if recipe.run.channels_last:
        denoiser.to(memory_format=torch.channels_last)
    frozen, named = torch.nn.Module(), recipe.objective.reference
    if recipe.uses_reference and named != "ema" and (recipe.lora is None or named != "start"):
        frozen = copy.deepcopy(denoiser) if named == "start" else _other(named, device)
        frozen = _cast_layers(frozen, dtype).to(device)
    reference: Reference = lambda: nullcontext(frozen)  # noqa: E731
    if recipe.lora is None:
        denoiser.requires_grad_(True).to(device)
        if recipe.run.fsdp:
            spread(frozen.requires_grad_(False), device, processes, dtype)
            spread(denoiser, device, processes, dtype)
    else:
        _cast_layers(denoiser, dtype).to(device)
        add_lora(denoiser, recipe.lora, recipe.run.seed)
        if named == "start":
            reference = lambda: _adapters_off(denoiser)  # noqa: E731
    _compile(frozen, recipe)
    if recipe.run.gradient_checkpointing:
        cast(Any, denoiser).enable_gradient_checkpointing()
    _compile(denoiser, recipe)
    return denoiser.train(), reference


def _other(source: str, device: torch.device) -> torch.nn.Module:
    """The denoiser of the model that a recipe names as its reference; no weights for the meta device.

    Raises: ModelError.
    """
    other: torch.nn.Module = (outline if device.type == "meta" else load)(source).denoiser
    return other


@contextmanager
def with_weights(
    denoiser: torch.nn.Module, parameters: Mapping[str, Parameter], others: Mapping[str, Tensor]
) -> Iterator[torch.nn.Module]:
    """The denoiser with `others` in place of its trained parameters; storages change hands, nothing is copied."""
    own = {name: parameter.data for name, parameter in parameters.items()}
    torch.clear_autocast_cache()  # it holds half-precision copies by parameter
    try:
        for name, parameter in parameters.items():
            parameter.data = others[name]
        yield denoiser
    finally:
        for name, parameter in parameters.items():
            parameter.data = own[name]
        torch.clear_autocast_cache()


def whole_denoiser(denoiser: torch.nn.Module, recipe: Recipe, *, keep: bool) -> torch.nn.Module:
    """The trained denoiser in one piece, on each process that is to `keep` it; spread weights are gathered by all."""
    if not recipe.run.fsdp:
        return denoiser
    weights = on_host(denoiser.state_dict(), keep=keep)
    if keep:
        denoiser = load(recipe.model).denoiser
        denoiser.load_state_dict(weights)
    return denoiser


def _cast_layers(denoiser: torch.nn.Module, dtype: torch.dtype) -> torch.nn.Module:
    """Its layers that autocast runs in `dtype`, in place; norms and buffers stay float32, as the policy's are.

    So a policy that is its reference predicts the same, to the bit.
    """
    for module in denoiser.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            module.to(dtype)
    return denoiser


def _compile(denoiser: torch.nn.Module, recipe: Recipe) -> None:
    """In place, so that parameters keep their names; each shape of a run's batches is compiled for itself."""
    if recipe.run.compile:
        # Counted over shapes, policy and reference, with gradients and without; torch's own 8 ends at the fifth shape.
        torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = MOST_COMPILED
        denoiser.compile(dynamic=False)


@contextmanager
def _adapters_off(denoiser: torch.nn.Module) -> Iterator[torch.nn.Module]:
    adapted = cast(Any, denoiser)
    adapted.disable_adapters()
    try:
        yield denoiser
    finally:
        adapted.enable_adapters()
