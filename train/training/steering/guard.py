"""What stops a run from spoiling its own weights, or ends it with one sentence."""

import math
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from train.config import Recipe
from train.errors import DivergenceError
from train.model.memory import enough_memory
from train.training.output.checkpoint import Checkpoint

MAX_SKIPPED_IN_A_ROW = 10


@dataclass
class Guard:
    """Counts the steps that must not be taken: those whose loss or gradient is not finite, or too large."""

    grad_norm_limit: float | None
    winner_error_limit: float | None = None
    winner_error_steps: int = 50
    skipped: int = 0
    in_a_row: int = 0
    winner_errors: deque[tuple[float, float]] = field(default_factory=deque)  # policy's, reference's; of the last steps

    def fault(self, loss: float, grad_norm: float, scaler: torch.amp.GradScaler | None = None) -> str | None:
        """Why this step must not be taken, or None; either is counted.

        scaler: fp16's. Steps at which its loss scale turns out too large are skipped, but none is in a row.
        """
        fault, limit, halved = None, self.grad_norm_limit, False
        if not math.isfinite(loss):
            fault = f"the loss is {loss}"
        elif not math.isfinite(grad_norm):
            fault = f"the gradient norm is {grad_norm}"
            if scaler is not None and (scale := scaler.get_scale()) > 1:
                fault, halved = f"{fault} at fp16's loss scale {scale:g}, which is halved", True
        elif limit is not None and grad_norm > limit:
            fault = f"the gradient norm is {grad_norm:.4g}, over optimizer.skip_grad_norm_over {limit:g}"
        self.skipped += fault is not None
        self.in_a_row = 0 if fault is None else self.in_a_row + (not halved)
        return fault

    def stop_if_diverged(self, step: int, fault: str, last_good: Path | None) -> None:
        """Raises: DivergenceError after MAX_SKIPPED_IN_A_ROW skipped steps, naming the last good checkpoint."""
        if self.in_a_row >= MAX_SKIPPED_IN_A_ROW:
            kept = f"the last good checkpoint is {last_good}" if last_good else "there is no checkpoint yet"
            raise DivergenceError(
                f"{self.in_a_row} steps in a row were skipped, the last of them step {step}: {fault}; {kept}."
                " Lower optimizer.learning_rate or objective.beta and train into another --output."
            )

    def stop_if_winner_is_lost(
        self, step: int, policy: float, reference: float, checkpoint_before: Callable[[int], Checkpoint | None]
    ) -> None:
        """Hear a step's mean errors on the preferred images; DPO's loss may fall while the first explodes.

        checkpoint_before: the newest of a step and those before it. Raises: DivergenceError when, over the last
        `winner_error_steps` steps, the policy's is more than `winner_error_limit` times the reference's.
        """
        if self.winner_error_limit is None or not math.isfinite(policy + reference):
            return
        self.winner_errors.append((policy, reference))
        if len(self.winner_errors) > self.winner_error_steps:
            self.winner_errors.popleft()
        if len(self.winner_errors) < self.winner_error_steps:
            return
        ratio = sum(one for one, _ in self.winner_errors) / sum(one for _, one in self.winner_errors)
        if ratio > self.winner_error_limit:
            good = checkpoint_before(step - self.winner_error_steps)
            before = good.folder if good else "none that is kept"
            raise DivergenceError(
                f"The error on preferred images was {ratio:.3g} times the reference's over the last"
                f" {self.winner_error_steps} steps before step {step}, over run.stop_winner_error_over"
                f" {self.winner_error_limit:g}; the newest checkpoint from before is {before}. Lower"
                " optimizer.learning_rate, raise objective.beta, or set objective.preserve_winner, and train into"
                " another --output."
            )


def enough_memory_to_train(recipe: Recipe) -> AbstractContextManager[None]:
    """Turn a refused allocation into what to change. Raises: MemoryFullError."""
    return enough_memory(
        f"for this recipe: {'; or '.join(_savings(recipe))}."
        " With --resume, run.micro_batch_pairs and run.gradient_checkpointing alone may change; for the others name"
        " another --output."
    )


def _savings(recipe: Recipe) -> list[str]:
    """What would need less memory, the cheapest first."""
    run, optimizer = recipe.run, recipe.optimizer
    micro = f"lower run.micro_batch_pairs from {run.pairs_at_once}, which changes results by rounding at most"
    found = {
        micro: run.pairs_at_once > 1,
        "set run.gradient_checkpointing = true": not run.gradient_checkpointing,
        'set run.mixed_precision = "bf16"': run.mixed_precision == "no",
        'set optimizer.name = "adafactor"': recipe.lora is None and optimizer.name != "adafactor",
        "train a LoRA (--lora-rank)": recipe.lora is None,
        f"lower data.resolution_px from {recipe.data.resolution_px}": True,
    }
    return [saving for saving, possible in found.items() if possible]
