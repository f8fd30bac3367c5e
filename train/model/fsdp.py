"""Weights spread over processes (PyTorch's FSDP2), for a full fine-tune that one device has no room for.

Each process holds a slice of every weight, gradient and moment; a block's weights are gathered while it runs.
Checkpoints and the model hold whole tensors, so a run goes on with any number of processes, spread or not.
"""

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from train.config import Recipe
from train.errors import SettingsError


def check(recipe: Recipe, processes: int) -> None:
    """Raises: SettingsError for what does not go with spread weights, where the recipe asks for them.

    All processes gather a block's weights together, so each must run as many forwards as the others.
    """
    run, data = recipe.run, recipe.data
    if not run.fsdp:
        return
    if processes == 1:
        raise SettingsError(
            "run.fsdp spreads weights over processes, and there is one; start more by `accelerate launch`, or leave it"
            " out."
        )
    if recipe.lora is not None:
        raise SettingsError("run.fsdp is for a full fine-tune; a LoRA's weights fit each device: leave it out.")
    if recipe.optimizer.name != "adamw":
        raise SettingsError(
            f'run.fsdp spreads the moments of optimizer.name "adamw"; {recipe.optimizer.name} cannot be spread.'
        )
    if run.mixed_precision == "fp16":
        raise SettingsError('run.fsdp does not scale losses for fp16; set run.mixed_precision = "bf16".')
    if data.buckets:
        raise SettingsError("run.fsdp needs pictures of one shape; set data.buckets = false.")
    together = processes * run.pairs_at_once
    if run.batch_pairs % together:
        raise SettingsError(
            f"run.fsdp needs all processes to take as many pairs: run.batch_pairs {run.batch_pairs} is no multiple of"
            f" run.micro_batch_pairs {run.pairs_at_once} x {processes} processes = {together}."
        )


def spread(denoiser: torch.nn.Module, device: torch.device, processes: int, dtype: torch.dtype) -> None:
    """Spread a denoiser's weights, in place: its indivisible blocks one by one, and what is left as one more.

    Gathered in `dtype`, norms too: half the traffic of float32. Slices and gradients stay float32. Inputs are left as
    they are: a flow model's timesteps would be rounded.
    """
    precision = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    mesh = init_device_mesh(device.type, (processes,))
    blocks = set(getattr(denoiser, "_no_split_modules", None) or ())
    for module in reversed(list(denoiser.modules())):  # inner blocks before those that hold them
        if module is denoiser or type(module).__name__ in blocks:
            fully_shard(module, mesh=mesh, mp_policy=precision)


def whole(tensor: Tensor) -> Tensor:
    """All of a spread tensor; every process must ask for it. A tensor that is not spread is what it was."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def spread_like(value: Tensor, parameter: Tensor) -> Tensor:
    """A whole tensor, spread as `parameter` is, if it is and has its shape."""
    value = value.to(parameter.device)
    if not isinstance(parameter, DTensor) or value.shape != parameter.shape:
        return value
    return distribute_tensor(value, parameter.device_mesh, parameter.placements)


def on_host(tensors: dict[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """Whole copies on the host, by name; every process must ask, and only those with `keep` are given them."""
    found = {}
    for name, tensor in tensors.items():
        gathered = whole(tensor.detach())  # one at a time: a device has no room for all
        if keep:
            found[name] = gathered.to("cpu", copy=True).contiguous()
    return found
