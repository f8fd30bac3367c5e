"""Whether the GPU of this machine can be used: torch itself says a warning at most, and takes the CPU."""

import torch
from accelerate.utils import parse_flag_from_env

from train.errors import SettingsError

NO_GPU = (
    "no NVIDIA driver",
    "No CUDA GPUs are available",
)  # as torch says it, also where CUDA_VISIBLE_DEVICES is empty


def check_gpu(mixed_precision: str = "no") -> None:
    """Raises: SettingsError where a GPU is there that torch cannot use, such as under a driver older than its CUDA, or
    one without bf16, which torch would emulate in many times the time.
    """
    asked_for_cpu = parse_flag_from_env("ACCELERATE_USE_CPU")
    if asked_for_cpu or torch.version.cuda is None:
        return
    if torch.accelerator.is_available():
        if mixed_precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
            raise SettingsError(
                f"{torch.cuda.get_device_name()} computes no bf16, and torch would emulate it slowly; set"
                ' run.mixed_precision to "fp16".'
            )
        return
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        if not any(words in reason for words in NO_GPU):
            raise SettingsError(
                f"The GPU of this machine cannot be used: {reason.rstrip('.')}. Mend that, or set"
                " ACCELERATE_USE_CPU=true to go on without it."
            ) from error
