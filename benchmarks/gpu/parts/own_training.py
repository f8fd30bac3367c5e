"""`train run` in this process: each run anew, on the CPU or the device, with the time of each step."""

import gc
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import tomli_w
import torch
from accelerate.state import AcceleratorState

from train.training import TrainOptions, train
from train.training.output.log import RunLog

Step = dict[str, float]


class EnoughError(Exception):
    """As many steps as are wanted are done: nothing is to be saved."""


def run(
    folder: Path,
    model: Path,
    shards: Path,
    preset: str,
    recipe: dict[str, Any],
    *,
    on_cpu: bool = False,
    **options: Any,
) -> list[Step]:
    """A whole run of a preset, changed by `recipe`, with its model saved; what the log says of each step."""
    with steps_of(None) as steps, fresh(on_cpu):
        train(TrainOptions(**_options(folder, model, shards, preset, recipe) | options))
    return steps


def timed(
    folder: Path, model: Path, shards: Path, preset: str, recipe: dict[str, Any], steps: int, **options: Any
) -> list[Step]:
    """The first steps of such a run, each with `time`, when it ended; a checkpoint is not written, nor the model."""
    with steps_of(steps) as found, fresh(False), suppress(EnoughError):
        train(TrainOptions(**_options(folder, model, shards, preset, recipe) | options))
    return found


def _options(folder: Path, model: Path, shards: Path, preset: str, recipe: dict[str, Any]) -> dict[str, Any]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    config = folder.with_suffix(".toml")
    config.write_text(tomli_w.dumps(recipe))
    return {"shards": shards, "model": str(model), "preset": preset, "config": config, "output": folder}


@contextmanager
def steps_of(enough: int | None) -> Iterator[list[Step]]:
    """What the run inside logs of each step, and when; it is stopped after `enough` of them."""
    found: list[Step] = []
    write = RunLog.write

    def noted(self: RunLog, step: int, metrics: dict[str, float]) -> None:
        found.append({"time": time.perf_counter(), **metrics})
        write(self, step, metrics)
        if len(found) == enough:
            raise EnoughError

    RunLog.write = noted  # type: ignore[method-assign]
    try:
        yield found
    finally:
        RunLog.write = write  # type: ignore[method-assign]


@contextmanager
def fresh(on_cpu: bool) -> Iterator[None]:
    """Accelerate and the device's memory as at the start of a process."""
    os.environ["ACCELERATE_USE_CPU"] = str(on_cpu).lower()
    AcceleratorState._reset_state(True)
    gc.collect()
    torch.compiler.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    yield
