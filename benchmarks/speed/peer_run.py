"""Start a peer's training script, unmodified, where its requirements are not met, and note when each step ends.

    python -m benchmarks.speed.peer_run SCRIPT RECORD [DRAWS] -- the script's own arguments

What is put in place so that it starts: empty modules `wandb` and `xformers` where they are not installed, xformers'
attention as a no-op (PyTorch's own SDPA stays), and Accelerate's loggers, which give way to RECORD: a JSON line a step.
After the last step it ends, and saves nothing.
With DRAWS (an .npz), the script also takes its noise, timesteps and order of pairs from there, and the first weights
of a LoRA, so that its losses can be compared with ours.
"""

import importlib.util
import itertools
import json
import os
import runpy
import sys
import time
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.utils import import_utils
from torch.utils.data import DataLoader


def let_it_start(record: Path) -> None:
    """Stand-ins for what is not installed, and the recorder."""
    for name in ("wandb", "xformers"):
        if importlib.util.find_spec(name) is None:
            module = types.ModuleType(name)
            module.__spec__ = importlib.util.spec_from_loader(name, loader=None)
            module.__version__ = "0.0.99"  # type: ignore[attr-defined]
            sys.modules[name] = module
    put(import_utils, "is_xformers_available", lambda: True)
    put(UNet2DConditionModel, "enable_xformers_memory_efficient_attention", lambda self, *_, **__: None)

    file, done = record.open("w", encoding="utf-8"), itertools.count(1)
    steps = int(sys.argv[sys.argv.index("--max_train_steps") + 1])

    def note(self: Accelerator, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        clocks = {"time": time.perf_counter(), "cpu": time.process_time()}
        memory = {"peak_memory_bytes": torch.cuda.max_memory_allocated()} if torch.cuda.is_available() else {}
        file.write(json.dumps({**clocks, **memory, "step": step, **values}) + "\n")
        file.flush()
        if not {"loss", "train_loss"}.isdisjoint(values) and next(done) == steps:
            os._exit(0)  # what it would save now nobody reads

    put(Accelerator, "log", note)
    put(Accelerator, "init_trackers", lambda self, *_, **__: None)


def give_draws(draws: dict[str, np.ndarray]) -> None:
    """Our noise, timesteps, order and first LoRA weights, in place of the script's own."""
    steps = {name: iter(draws[name]) for name in ("noise", "timesteps")}
    posterior = iter(draws["posterior_noise"].reshape(-1, *draws["posterior_noise"].shape[2:]))
    randn_like, randint, init, add = (
        torch.randn_like,
        torch.randint,
        DataLoader.__init__,
        UNet2DConditionModel.add_adapter,
    )
    pairs, latent = draws["noise"].shape[1], draws["noise"].shape[2:]

    def sample(self: DiagonalGaussianDistribution, generator: Any = None) -> torch.Tensor:
        noise = np.stack([next(posterior) for _ in range(len(self.mean))])
        return self.mean + self.std * torch.from_numpy(noise)

    def noise_like(tensor: torch.Tensor, *rest: Any, **options: Any) -> torch.Tensor:
        if tensor.shape != (2 * pairs, *latent):
            return randn_like(tensor, *rest, **options)
        return torch.from_numpy(next(steps["noise"])).repeat(2, 1, 1, 1)

    def timesteps(low: int, high: int, size: tuple[int, ...], **options: Any) -> torch.Tensor:
        if size not in ((pairs,), (2 * pairs,)):
            return randint(low, high, size, **options)
        return torch.from_numpy(next(steps["timesteps"])).repeat(size[0] // pairs)

    def in_order(self: Any, *rest: Any, **options: Any) -> None:
        init(self, *rest, **(options | {"shuffle": False}))

    def with_our_weights(self: Any, *rest: Any, **options: Any) -> None:
        add(self, *rest, **options)
        for name, parameter in self.named_parameters():
            if f"lora/{name}" in draws:
                parameter.data.copy_(torch.from_numpy(draws[f"lora/{name}"]))

    put(DiagonalGaussianDistribution, "sample", sample)
    put(torch, "randn_like", noise_like)
    put(torch, "randint", timesteps)
    put(DataLoader, "__init__", in_order)
    put(UNet2DConditionModel, "add_adapter", with_our_weights)


def put(owner: Any, name: str, value: Any) -> None:
    """Replace a function of a library, for this process."""
    setattr(owner, name, value)


def main() -> None:
    """Patch, then run the script as if it had been called with its own arguments."""
    cut = sys.argv.index("--")
    script, record, *draws = sys.argv[1:cut]
    let_it_start(Path(record))
    if draws:
        with np.load(draws[0]) as loaded:
            give_draws(dict(loaded))
    sys.argv = [script, *sys.argv[cut + 1 :]]
    sys.path.insert(0, str(Path(script).parent))
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
