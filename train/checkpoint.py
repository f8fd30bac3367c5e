"""Save, find and load checkpoints: safetensors and JSON, no pickle.

    <output>/checkpoints/step-000100/weights.safetensors    the parameters that training changes, by name
                                     optimizer.safetensors  `<parameter>/<moment>`: AdamW's state, float32
                                     state.json             step, file sizes, the fp16 loss scale

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

WEIGHTS, OPTIMIZER, STATE = "weights.safetensors", "optimizer.safetensors", "state.json"
Parameters = dict[str, Parameter]


@dataclass(frozen=True)
class Checkpoint:
    """A sound checkpoint on disk; `step` optimizer steps are done."""

    folder: Path
    step: int
    loss_scale: dict[str, Any]


def checkpoints_folder(output: Path) -> Path:
    return output / "checkpoints"


def save(
    output: Path,
    step: int,
    parameters: Parameters,
    optimizer: torch.optim.Optimizer,
    loss_scale: dict[str, Any],
    *,
    keep: int,
) -> None:
    """Write the checkpoint of `step` and remove all but the newest `keep`. Raises: StorageError."""
    folder = checkpoints_folder(output) / f"step-{step:06d}"
    with whole_folder(folder) as temporary:
        save_file({name: _plain(value) for name, value in parameters.items()}, temporary / WEIGHTS)
        save_file(_optimizer_tensors(parameters, optimizer), temporary / OPTIMIZER)
        sizes = {name: (temporary / name).stat().st_size for name in (WEIGHTS, OPTIMIZER)}
        state = {"step": step, "sizes_bytes": sizes, "loss_scale": loss_scale}
        (temporary / STATE).write_text(json.dumps(state), "utf-8")
    for old in _newest_first(output)[keep:]:
        shutil.rmtree(old)


def newest(output: Path, report: Callable[[str], None]) -> Checkpoint | None:
    """The newest sound checkpoint; `report` hears of each that is passed over."""
    for folder in _newest_first(output):
        try:
            return _opened(folder)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            report(f"{folder} is not a sound checkpoint ({error}): looking for an older one.")
    return None


def restore(checkpoint: Checkpoint, parameters: Parameters, optimizer: torch.optim.Optimizer) -> None:
    """Put weights and optimizer state back in place. Raises: RunDirectoryError when the model is another."""
    weights = load_file(checkpoint.folder / WEIGHTS)
    if weights.keys() != parameters.keys():
        raise RunDirectoryError(f"{checkpoint.folder} holds other parameters than this model trains.")
    moments = load_file(checkpoint.folder / OPTIMIZER)
    for name, parameter in parameters.items():
        parameter.data.copy_(weights[name])
    state: dict[Parameter, dict[str, Tensor]] = {parameter: {} for parameter in parameters.values()}
    for name, value in moments.items():
        parameter_name, _, moment = name.rpartition("/")
        parameter = parameters[parameter_name]
        state[parameter][moment] = value if moment == "step" else value.to(parameter.device)
    optimizer.state.update({parameter: held for parameter, held in state.items() if held})


def _newest_first(output: Path) -> list[Path]:
    return sorted(checkpoints_folder(output).glob("step-*"), reverse=True)


def _opened(folder: Path) -> Checkpoint:
    state = json.loads((folder / STATE).read_text("utf-8"))
    for name, size_bytes in state["sizes_bytes"].items():
        found_bytes = (folder / name).stat().st_size
        if found_bytes != size_bytes:
            raise ValueError(f"{name} has {found_bytes} bytes of {size_bytes}")
        with safe_open(folder / name, framework="pt"):
            pass
    return Checkpoint(folder, int(state["step"]), state["loss_scale"])


def _optimizer_tensors(parameters: Parameters, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{name}/{moment}": _plain(value)
        for name, parameter in parameters.items()
        for moment, value in optimizer.state[parameter].items()
    }


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()
