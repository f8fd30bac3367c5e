"""Device and number format of the towers."""

import contextlib
import re
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from curate.errors import UsageError
from curate.models.batch_limit import first_sentence

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

NO_GPU = ("Found no NVIDIA driver", "No CUDA GPUs", "no device", "CUDA driver initialization", "Torch not compiled")
"""How torch's sentence begins where there is nothing to compute on but the CPU."""

READ_THRICE = (("q_proj", "k_proj", "v_proj"), ("query", "key", "value"))
"""Layers of transformers' attention that read the same states, by family."""
STATES = ("hidden_states", "encoder_hidden_states")


def choose_device(wanted: str) -> str:
    """`auto` is CUDA where there is one. Raises UsageError for a device that is not there, or is there out of reach."""
    if wanted == "auto":
        if torch.cuda.is_available():
            return "cuda"
        if (why := _why_no_cuda()) and not why.startswith(NO_GPU):
            raise UsageError(f"--device auto: {why}; mend that, install a torch for it, or say --device cpu")
        return "cpu"
    if wanted == "cpu":
        return wanted
    if re.fullmatch(r"cuda(:\d+)?", wanted) is None:
        raise UsageError(f"--device {wanted}: choose auto, cpu, cuda or cuda:N")
    there = torch.cuda.device_count()
    if int(wanted.partition(":")[2] or 0) >= there:
        why = "" if there else f" ({_why_no_cuda()})"
        raise UsageError(
            f"--device {wanted}: torch sees {there} CUDA devices here{why}; use --device cpu, or one of them"
        )
    return wanted


def _why_no_cuda() -> str:
    """torch's first sentence: no driver, one that is too old, no device that is visible, …"""
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return first_sentence(error)
    return "no device is visible"


def choose_devices(wanted: str, workers: int | None) -> tuple[str, ...]:
    """A device for each worker process: `auto` is every CUDA device, and more workers than devices share them.

    Raises: UsageError for a device that is not there.
    """
    there = torch.cuda.device_count() if wanted == "auto" and choose_device(wanted) == "cuda" else 0
    devices = [f"cuda:{number}" for number in range(there)] if there > 1 else [choose_device(wanted)]
    return tuple(devices[number % len(devices)] for number in range(workers or len(devices)))


def half_precisions(devices: tuple[str, ...]) -> tuple[str, ...]:
    """What every one of these CUDA devices multiplies in: bfloat16 not on those that emulate it, before Ampere."""
    return ("fp16", "bf16") if all(map(_has_bfloat16, devices)) else ("fp16",)


def _has_bfloat16(device: str) -> bool:
    with torch.cuda.device(device):
        return torch.cuda.is_bf16_supported(including_emulation=False)


def describe_device(device: str, precision: str) -> str:
    """One phrase for stderr: what computes, and in which number format."""
    name = (
        torch.cuda.get_device_name(device) if device.startswith("cuda") else f"CPU, {torch.get_num_threads()} threads"
    )
    return f"{name}, {precision}"


def hold(module: torch.nn.Module, device: str, precision: str) -> None:
    """Move a picture's encoder to `device`, its matrices in the number format that `autocast` multiplies them in.

    Autocast casts a float32 matrix anew in every batch; held so, the values are equal to the last bit and weights
    take half the memory. Everything else stays in float32: norms, embeddings, and what the residual stream begins as.
    """
    module.to(device)
    if precision == "fp32":
        return
    for part in module.modules():
        if isinstance(part, torch.nn.Linear | torch.nn.Conv2d):
            part.to(DTYPES[precision])
            part.to(memory_format=memory_format(device, precision))
        elif isinstance(part, torch.nn.MultiheadAttention) and part.in_proj_weight is not None:
            part.in_proj_weight.data = part.in_proj_weight.data.to(DTYPES[precision])
            part.in_proj_bias.data = part.in_proj_bias.data.to(DTYPES[precision])
        elif any(all(hasattr(part, name) for name in names) for names in READ_THRICE):
            part.register_forward_pre_hook(partial(_cast_once, DTYPES[precision]), with_kwargs=True)


def _cast_once(dtype: torch.dtype, part: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, Any]:
    """Autocast would cast what queries, keys and values are made of for each of them: the same numbers."""
    states = {name: value.to(dtype) for name, value in named.items() if name in STATES and value is not None}
    return tuple(value.to(dtype) if place == 0 else value for place, value in enumerate(inputs)), named | states


def memory_format(device: str, precision: str) -> torch.memory_format:
    """Channels last where cuDNN's half-precision convolutions want it; on a CPU it gains nothing."""
    on_tensor_cores = device.startswith("cuda") and precision != "fp32"
    return torch.channels_last if on_tensor_cores else torch.contiguous_format


@contextlib.contextmanager
def autocast(device: str, precision: str) -> Iterator[None]:
    """Matrix products in `precision`; norms and softmax compute in float32, as in the models' own scoring code.

    torch's native attention of nn.MultiheadAttention, which rounds its softmax to half precision, stands aside for
    the fused one: under autocast on CUDA torch sees to that itself, on the CPU it does not. float32 is true float32:
    by its defaults torch multiplies the patch convolution in TF32, with the 10 bits of a float16.
    """
    if precision == "fp32":
        cudnn = torch.backends.cudnn
        with cudnn.flags(cudnn.enabled, cudnn.benchmark, deterministic=cudnn.deterministic, allow_tf32=False):
            yield
        return
    native = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.autocast(device.split(":")[0], DTYPES[precision]):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(native)
