"""When checkpoints are written: every so many steps or minutes, at the end, and when SIGTERM or Ctrl-C ends a run."""

import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator

from train.config import Run
from train.errors import RunStoppedError
from train.training.optimizers import MovingAverage, Parameters
from train.training.output import checkpoint
from train.training.steering.beta_aim import BetaAim
from train.training.steering.guard import Guard

INSIST_SEC = 2.0  # a launcher passes on the Ctrl-C that the terminal gave its processes already


class StopRequest:
    """Within its block the first SIGTERM or Ctrl-C is noted only; Ctrl-C again, later than INSIST_SEC, ends at once."""

    def __init__(self) -> None:
        self._caught: signal.Signals | None = None
        self._caught_at = 0.0
        self._before: dict[signal.Signals, Any] = {}

    @property
    def asked(self) -> bool:
        """Whether this process was told to end."""
        return self._caught is not None

    def stopped(self, done: int, steps: int) -> RunStoppedError:
        """What ends the run after `done` of `steps` steps, which stand in a checkpoint."""
        caught = self._caught or signal.SIGTERM  # by another process, where this one heard of none
        after = f"after step {done} of {steps}; it is saved, and the same command with --resume goes on from there"
        return RunStoppedError(
            f"stopped by {caught.name} {after if done else 'before the first step was done'}.", 128 + caught
        )

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():  # Python gives signals to no other
            self._before = {one: signal.signal(one, self._note) for one in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for one, handler in self._before.items():
            signal.signal(one, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if self._caught is None:
            self._caught, self._caught_at = signal.Signals(number), now
        elif number == signal.SIGINT and now - self._caught_at > INSIST_SEC:
            raise KeyboardInterrupt


class Checkpointing(StopRequest):
    """Enter it around the loop. Where weights are spread over processes, all save together, and the main one writes."""

    def __init__(
        self,
        output: Path,
        run: Run,
        parameters: Parameters,
        optimizer: torch.optim.Optimizer,
        averages: dict[str, MovingAverage],
        accelerator: Accelerator,
        guard: Guard,
        aim: BetaAim,
    ) -> None:
        super().__init__()
        self.output, self.run, self.accelerator, self.guard, self.aim = output, run, accelerator, guard, aim
        self.trained = (parameters, optimizer, averages)
        self._saved, self._saved_at = 0, time.monotonic()

    def restore(self, newest: checkpoint.Checkpoint) -> None:
        """Put back what a checkpoint holds. Raises: RunDirectoryError when the model is another."""
        checkpoint.restore(newest, *self.trained)
        self.guard.skipped, self.guard.in_a_row = newest.state.get("skipped", (0, 0))
        self.guard.winner_errors.extend(map(tuple, newest.state.get("winner_errors", [])))
        self.aim.size = newest.state.get("margin_size")
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(newest.state["loss_scale"])
        self._saved = newest.step

    def wishes(self) -> tuple[bool, bool]:
        """Whether this process was told to end, and whether it is the main one and finds the last checkpoint old."""
        minutes = self.run.checkpoint_minutes
        old = minutes is not None and time.monotonic() - self._saved_at > 60 * minutes
        return self.asked, old and self.accelerator.is_main_process

    def after_step(self, done: int, *, stopping: float, old: float) -> None:
        """stopping, old: how many processes wish so. Raises: RunStoppedError once all is saved; StorageError."""
        if stopping or old or done == self.run.steps or done % self.run.checkpoint_every_steps == 0:
            self._save(done)
        if stopping and done < self.run.steps:
            self.accelerator.wait_for_everyone()  # a launcher that sees one end ends the one that writes
            raise self.stopped(done, self.run.steps)

    def leave_step(self, done: int) -> None:
        """Within a step, after `done` whole ones: a process that is alone and was told to end leaves it undone.

        --resume draws it again. Raises: RunStoppedError, StorageError.
        """
        if self.asked and self.accelerator.num_processes == 1:
            if self._saved < done:
                self._save(done)
            raise self.stopped(done, self.run.steps)

    def _save(self, done: int) -> None:
        """With weights, moments and averages go the fp16 loss scale, what the guard counts, and what beta aims by."""
        main, scaler = self.accelerator.is_main_process, self.accelerator.scaler
        scale = {} if scaler is None else scaler.state_dict()
        extra = {
            "loss_scale": scale,
            "skipped": (self.guard.skipped, self.guard.in_a_row),
            "margin_size": self.aim.size,
        }
        extra["winner_errors"] = list(self.guard.winner_errors)
        if main or self.run.fsdp:
            checkpoint.save(self.output, done, *self.trained, extra, keep=self.run.keep_checkpoints, write=main)
        self._saved, self._saved_at = done, time.monotonic()
