"""fp16's loss scale, found before the first step: a step skipped for it would cost all pairs of its batch."""

import math
from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor

from train.data.batches import BatchPlan
from train.data.latents import Batch
from train.terminal import Reporter


def find_loss_scale(
    accelerator: Accelerator,
    plan: BatchPlan,
    policy: Any,
    optimizer: AcceleratedOptimizer,
    backward: Callable[[Batch], dict[str, Tensor]],
    reporter: Reporter,
) -> None:
    """Halve the scaler's scale until the first micro-batch gives finite gradients in all processes.

    backward: the gradients of a micro-batch, thrown away here, and its `pair_metrics`. A loss that is not finite has no
    scale: that is left to the steps and their guard.
    """
    scaler, batch = accelerator.scaler, plan.batch(0, plan.micro_batches(0)[0])
    while True:
        with accelerator.no_sync(policy):
            losses = backward(batch)["loss"]
        gradients = [one.grad for group in optimizer.param_groups for one in group["params"] if one.grad is not None]
        largest = torch.nn.utils.get_total_norm(gradients, math.inf)
        lost = torch.stack([~largest.isfinite(), ~losses.isfinite().all()]).float()
        overflows, without_loss = accelerator.reduce(lost, "sum").tolist()
        optimizer.zero_grad()
        scale = scaler.get_scale()
        if not overflows or without_loss or scale <= 1:
            break
        scaler.update(scale * scaler.get_backoff_factor())
    reporter.say(f"fp16's loss scale begins at {scale:g}, found on the first micro-batch.")
