"""Save, find and load checkpoints: safetensors and JSON, no pickle.

    <output>/checkpoints/step-000100/weights.safetensors    the parameters that training changes, by name
                                     optimizer.safetensors  `<parameter>/<moment>`: the optimizer's tensors
                                     average.safetensors    the moving average, float32, where there is one
                                     reference.safetensors  the same of a reference that moves
                                     state.json             step, file sizes, the optimizer's plain numbers,
                                                            the fp16 loss scale, the steps skipped

A checkpoint appears by one rename, so one that is there is whole unless the disk harmed it; sizes and
headers are looked at, and an unsound one is passed over with a word.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import Parameter

from train.errors import RunDirectoryError
from train.files import whole_folder
from train.model.fsdp import on_host, spread_like
from train.training.optimizers import MovingAverage, Parameters

WEIGHTS, OPTIMIZER = "weights.safetensors", "optimizer.safetensors"
AVERAGE, REFERENCE = "average.safetensors", "reference.safetensors"
STATE = "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """A sound checkpoint on disk; `step` optimizer steps are done."""

    folder: Path
    step: int
    state: dict[str, Any]  # what state.json holds


def checkpoints_folder(output: Path) -> Path:
    return output / "checkpoints"


def save(
    output: Path,
    step: int,
    parameters: Parameters,
    optimizer: torch.optim.Optimizer,
    averages: dict[str, MovingAverage],
    extra_state: dict[str, Any],
    *,
    keep: int,
    write: bool = True,
) -> None:
    """Write the checkpoint of `step`, `extra_state` into its state.json, and remove all but the newest `keep`.

    averages: by the file that each has.

    Where weights are spread over processes all must call it, and one of them `write`s. Raises: StorageError.
    """
    folder = checkpoints_folder(output) / f"step-{step:06d}"
    tensors, numbers = _optimizer_state(parameters, optimizer)
    held: dict[str, dict[str, Tensor]] = {WEIGHTS: dict(parameters), OPTIMIZER: tensors}
    held |= {name: average.averages for name, average in averages.items()}
    files = {name: on_host(content, keep=write) for name, content in held.items()}
    if not write:
        return
    with whole_folder(folder) as temporary:
        for name, content in files.items():
            save_file(content, temporary / name)
        sizes = {name: (temporary / name).stat().st_size for name in files}
        state = {"step": step, "sizes_bytes": sizes, "optimizer": numbers, **extra_state}
        (temporary / STATE).write_text(json.dumps(state), "utf-8")
    for old in _newest_first(output)[keep:]:
        shutil.rmtree(old)


def newest(output: Path, report: Callable[[str], None], last_step: int | None = None) -> Checkpoint | None:
    """The newest sound checkpoint, of `last_step` or before; `report` hears of each unsound one that is passed over."""
    for folder in _newest_first(output, last_step):
        try:
            return _opened(folder)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
            report(f"{folder} is not a sound checkpoint ({error}): looking for an older one.")
    return None


def restore(
    checkpoint: Checkpoint,
    parameters: Parameters,
    optimizer: torch.optim.Optimizer,
    averages: dict[str, MovingAverage],
) -> None:
    """Put weights, optimizer state and averages back in place. Raises: RunDirectoryError when the model is another."""
    weights = load_file(checkpoint.folder / WEIGHTS)
    if weights.keys() != parameters.keys():
        raise RunDirectoryError(f"{checkpoint.folder} holds other parameters than this model trains.")
    for name, parameter in parameters.items():
        parameter.data.copy_(spread_like(weights[name], parameter.data))
    state: dict[Parameter, dict[str, Any]] = {parameter: {} for parameter in parameters.values()}
    for name, value in load_file(checkpoint.folder / OPTIMIZER).items():
        parameter_name, _, moment = name.rpartition("/")
        parameter = parameters[parameter_name]
        on_host = moment == "step" and not optimizer.defaults.get("fused")  # where AdamW keeps its step counts
        state[parameter][moment] = value if on_host else spread_like(value, parameter.data)
    for name, number in checkpoint.state["optimizer"].items():
        parameter_name, _, moment = name.rpartition("/")
        state[parameters[parameter_name]][moment] = number
    optimizer.state.update({parameter: held for parameter, held in state.items() if held})
    for name, average in averages.items():
        average.load(load_file(checkpoint.folder / name))


def _newest_first(output: Path, last_step: int | None = None) -> list[Path]:
    found = {
        int(path.name[5:]): path for path in checkpoints_folder(output).glob("step-*") if path.name[5:].isdecimal()
    }
    return [found[step] for step in sorted(found, reverse=True) if last_step is None or step <= last_step]


def _opened(folder: Path) -> Checkpoint:
    state = json.loads((folder / STATE).read_text("utf-8"))
    for name, size_bytes in state["sizes_bytes"].items():
        if (found_bytes := (folder / name).stat().st_size) != size_bytes:
            raise ValueError(f"{name} has {found_bytes} bytes of {size_bytes}")
        with safe_open(folder / name, framework="pt"):
            pass
    return Checkpoint(folder, int(state["step"]), {"optimizer": {}, **state})


def _optimizer_state(
    parameters: Parameters, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Its tensors and its plain numbers, both by `<parameter>/<name>`."""
    held = {
        f"{name}/{moment}": value
        for name, parameter in parameters.items()
        for moment, value in optimizer.state[parameter].items()
    }
    tensors = {name: value for name, value in held.items() if isinstance(value, Tensor)}
    return tensors, {name: value for name, value in held.items() if name not in tensors}
