"""What a run tells, step by step: log.jsonl, TensorBoard events, Weights & Biases if asked."""

import json
import math
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.tensorboard.writer import SummaryWriter

from train.config import Recipe, as_toml
from train.errors import SettingsError
from train.files import storage_errors

PROGRESS_FORMATS = {
    "loss": "loss {:.4f}",
    "implicit_accuracy": "accuracy {:.3f}",
    "policy_margin": "margin {:+.5f}",
    "learning_rate": "lr {:.2e}",
    "pairs_per_sec": "{:.1f} pairs/s",
}
GROUPS = {  # of TensorBoard, by how a metric's name begins; others are about the objective
    "validation_": "validation",
    "policy_mse": "errors",
    "reference_mse": "errors",
    "margin_by_noise": "margin by noise",
    **dict.fromkeys(("learning_rate", "grad_norm", "skipped_steps", "loss_scale"), "optimizer"),
    **dict.fromkeys(("pairs_per_sec", "data_wait_share", "peak_memory_bytes"), "machine"),
}


class RunLog:
    """One record per optimizer step, into log.jsonl and TensorBoard; the main process alone opens it."""

    def __init__(self, output: Path, first_step: int, recipe: Recipe | None = None) -> None:
        """Continue after `first_step` steps: records of later ones, left by a killed run, are cut off.

        Raises: SettingsError when Weights & Biases is asked for and not installed.
        """
        project = None if recipe is None else recipe.run.wandb_project
        self._wandb = None if project is None else _wandb_run(project, output, first_step)
        self._path = path = output / "log.jsonl"
        kept = [line for line in _whole_lines(path) if json.loads(line)["step"] <= first_step]
        with storage_errors(path):
            path.write_text("".join(kept), "utf-8")
            self._events = SummaryWriter(str(output / "tensorboard"), purge_step=first_step + 1)
            if recipe is not None:
                self._events.add_text("recipe", f"```toml\n{as_toml(recipe.as_table())}\n```")
            self._file = path.open("a", encoding="utf-8")

    def write(self, step: int, metrics: dict[str, float]) -> None:
        finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
        record = {"step": step, **{name: finite.get(name) for name in metrics}}  # JSON knows no NaN: null stands for it
        with storage_errors(self._path):
            self._file.write(json.dumps(record, allow_nan=False) + "\n")
            self._file.flush()
            for name, value in finite.items():
                self._events.add_scalar(f"{_group(name)}/{name}", value, step)
        if self._wandb is not None:
            self._wandb.log(finite, step=step)

    def write_picture(self, step: int, path: Path) -> None:
        """A grid of samples as an image of TensorBoard."""
        with storage_errors(self._path), Image.open(path) as picture:
            self._events.add_image("samples", np.asarray(picture.convert("RGB")), step, dataformats="HWC")

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._wandb is not None:
            self._wandb.finish()
        with storage_errors(self._path) if error is None else suppress(OSError):  # a full disk has been told of
            self._file.close()
            self._events.close()


def _group(name: str) -> str:
    return next((group for start, group in GROUPS.items() if name.startswith(start)), "objective")


def _wandb_run(project: str, output: Path, first_step: int) -> Any:
    """A run of Weights & Biases; one that is resumed goes on under its own id."""
    try:
        import wandb
    except ImportError as error:
        raise SettingsError(
            "run.wandb_project needs the package wandb; install pairsieve[wandb], or leave the setting out."
        ) from error
    known = output / "wandb-id"
    run_id = known.read_text("utf-8") if first_step and known.exists() else uuid.uuid4().hex
    with storage_errors(known):
        known.write_text(run_id, "utf-8")
    return wandb.init(project=project, name=output.resolve().name, dir=str(output), id=run_id, resume="allow")


def read_log(path: Path) -> list[dict[str, float | None]]:
    """The records of a log.jsonl; null stands for what was not finite."""
    return [json.loads(line) for line in _whole_lines(path)]


def _whole_lines(path: Path) -> list[str]:
    """Whole lines only: a killed run may have left half of one."""
    if not path.exists():
        return []
    return [line for line in path.read_text("utf-8").splitlines(keepends=True) if line.endswith("}\n")]


def progress_text(metrics: dict[str, float]) -> str:
    """The few numbers worth a place on the terminal."""
    known = {name: form for name, form in PROGRESS_FORMATS.items() if math.isfinite(metrics[name]) or name == "loss"}
    return "  ".join(form.format(metrics[name]) for name, form in known.items())


def mean_of_last(path: Path, records: int = 10) -> dict[str, float]:
    """The mean of each metric over the last `records` steps of a log.jsonl, as far as it is finite there."""
    last = read_log(path)[-records:]
    means: dict[str, float] = {}
    for name in dict.fromkeys(name for one in last for name in one if name != "step"):
        values = [value for one in last if (value := one.get(name)) is not None]
        if values:
            means[name] = sum(values) / len(values)
    return means
