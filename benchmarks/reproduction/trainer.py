"""One arm trained: the steps of `train.training.loop`, without its accelerator, logs and checkpoints.

The recipe, the draws, the batches, policy and reference, the errors, the objective and the optimizer are `train`'s
own; a test holds the weights to those of `train.training.loop.run_training` on the same pairs.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.reproduction.base import Base, to_latents
from benchmarks.reproduction.curation import Chosen
from benchmarks.reproduction.denoiser import LORA_TARGETS
from benchmarks.reproduction.pictures import SIDE_PX, embed_captions
from benchmarks.reproduction.world import World
from train.config import Recipe, load_recipe
from train.data.batches import BatchPlan
from train.data.latents import LatentSource
from train.data.pairs import Pair, PairSet
from train.model.families import Conditioning, DiffusionModel, Scheduler
from train.model.lora import trainable
from train.model.policy import make_policy
from train.objectives import implicit_accuracy, pair_loss
from train.training.optimizers import make_optimizer
from train.training.pair_errors import pair_errors

CPU = torch.device("cpu")
Observe = Callable[[int, torch.nn.Module, dict[str, float]], None]


@dataclass(frozen=True)
class Training:
    """What of the recipe arms differ in; the rest stands in `recipe`."""

    learning_rate: float = 3e-5
    beta: float = 500.0
    steps: int = 200
    batch_pairs: int = 16
    objective: str = "dpo"
    own: tuple[tuple[str, Any], ...] = ()  # the objective's own keys, and weight_by
    lora_rank: int | None = None
    order: str = "shuffled"

    def recipe(self, seed: int) -> Recipe:
        """The whole recipe, checked by `train.config`."""
        flags: dict[str, Any] = {
            "model": "miniature",
            "data": {"resolution_px": SIDE_PX, "order": self.order},
            "objective": {"name": self.objective, "beta": self.beta} | dict(self.own),
            "optimizer": {"learning_rate": self.learning_rate, "warmup_steps": 10, "fused": True},
            "run": {"steps": self.steps, "seed": seed, "batch_pairs": self.batch_pairs},
        }
        flags["run"]["micro_batch_pairs"] = self.batch_pairs
        if self.lora_rank is not None:
            flags["lora"] = {"rank": self.lora_rank, "targets": list(LORA_TARGETS), "init": "kaiming"}
        return load_recipe("demo", flags=flags)


@dataclass(frozen=True)
class PicturesInMemory:
    """Latents and prompts as `train.data.latents.LatentSource` gives them; a picture of pixels has no posterior."""

    latents: Float[Tensor, "picture 3 16 16"]
    embeds: Float[Tensor, "prompt token width"]  # the empty prompt's last

    def encoded(
        self, images: list[int], noise: Tensor, flipped: list[bool], prompts: list[int]
    ) -> tuple[Tensor, Conditioning]:
        """See `train.data.latents.LatentSource`; nothing is ever flipped, because captions name sides."""
        if any(flipped):
            raise ValueError("pictures of this world are not flipped: set data.flips = false")
        return self.latents[images], Conditioning(self.embeds[prompts])


def in_memory(world: World) -> PicturesInMemory:
    """All of a world's pictures and prompts."""
    embeds = embed_captions([*world.prompts, ""])
    return PicturesInMemory(to_latents(world.pictures.astype(np.float32) / 255), torch.from_numpy(embeds))


def pair_set(world: World, chosen: Chosen) -> PairSet:
    """The chosen pairs as shards would give them, in rank order."""
    rows = zip(chosen.prompt.tolist(), chosen.preferred.tolist(), chosen.rejected.tolist(), strict=True)
    values = {"quality": np.asarray(chosen.quality, np.float64)}
    return PairSet([Pair(*row) for row in rows], [], world.prompts, [], values=values, folder=None)  # type: ignore[arg-type]


def train_policy(
    base: Base, recipe: Recipe, pairs: PairSet, encoded: LatentSource, observe: Observe
) -> torch.nn.Module:
    """Train a copy of the base; `observe` is told of the untouched policy (step 0) and of each step after."""
    model = object.__new__(DiffusionModel)  # of a model only these: pixels are its latents, captions its embeddings
    for name, value in {"denoiser": copy.deepcopy(base.denoiser), "scheduler": base.scheduler}.items():
        object.__setattr__(model, name, value)
    shape = (3, recipe.data.resolution_px, recipe.data.resolution_px)
    return run_steps(model, recipe, pairs, encoded, shape, observe)


def run_steps(
    model: DiffusionModel,
    recipe: Recipe,
    pairs: PairSet,
    encoded: LatentSource,
    latent_shape: tuple[int, int, int],
    observe: Observe,
) -> torch.nn.Module:
    """The steps of `train.training.loop.run_training` for one process and one micro-batch a step; the policy, trained.

    observe: called with the number of steps done, the policy, and the step's means.
    """
    scheduler: Scheduler = model.scheduler
    observed = replace(recipe, run=replace(recipe.run, validate_every_steps=1))  # each objective's drift is observed
    policy, reference = make_policy(model, observed, CPU, torch.float32)
    parameters = trainable(policy)
    optimizer = make_optimizer(recipe.optimizer, parameters, CPU)
    plan = BatchPlan(
        recipe=recipe,
        pairs=pairs,
        encoded=encoded,
        device=CPU,
        timesteps=scheduler.config["num_train_timesteps"],
        latent_shape=latent_shape,
        rank=0,
        processes=1,
    )
    plan.check()
    observe(0, policy, {})
    for step in range(recipe.run.steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.optimizer.learning_rate * min(1.0, (step + 1) / max(1, recipe.optimizer.warmup_steps))
        (places,) = plan.micro_batches(step)
        batch = plan.batch(step, places)
        errors = pair_errors(policy, reference, scheduler, batch)
        losses = pair_loss(errors, recipe.objective, batch.of_pairs)
        (losses.sum() / recipe.run.batch_pairs).backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), recipe.optimizer.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        drift = errors.policy_w if errors.drift is None else errors.drift
        means = torch.stack([losses.detach().mean(), implicit_accuracy(errors).mean(), drift.detach().mean()])
        observe(step + 1, policy, dict(zip(("loss", "implicit_accuracy", "drift"), means.tolist(), strict=True)))
    return policy
