"""How a run is doing while it goes: implicit accuracy on held-out pairs, and pictures beside the base's."""

from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from train.config import Recipe
from train.data.batches import BatchPlan
from train.model.families import family_of, pipeline_around
from train.model.policy import Reference
from train.objectives import implicit_accuracy, pair_loss
from train.sample.generate import GenerationSettings, PictureRequest, generate, picture_requests, to_picture
from train.sample.grid import Tile, save_grid
from train.sample.prompts import Prompt
from train.training.output.log import RunLog
from train.training.pair_errors import pair_errors
from train.training.steering.beta_aim import BetaAim

SAMPLE_STEPS = 25  # what `train sample` takes when nothing is said


@torch.no_grad()
def validate(
    plan: BatchPlan, policy: torch.nn.Module, reference: Reference, aim: BetaAim, accelerator: Accelerator
) -> dict[str, float]:
    """Loss and implicit accuracy on the held-out pairs, over all processes; always with the same draws."""
    sums = torch.zeros(3, device=plan.device)
    for batch, counted in plan.validation():
        with accelerator.autocast():
            errors = pair_errors(policy, reference, aim.scheduler, batch)
        losses = pair_loss(errors, plan.recipe.objective, batch.of_pairs, aim.of(batch))[:counted]
        right = implicit_accuracy(errors)[:counted]
        sums += torch.stack([losses.float().sum(), right.sum(), sums.new_tensor(counted)])
    loss, right, count = accelerator.reduce(sums, "sum").tolist()
    return {"validation_loss": loss / count, "validation_implicit_accuracy": right / count}


def sample_grid(
    output: Path,
    step: int,
    recipe: Recipe,
    prompts: list[str],
    policy: Any,
    reference: Reference,
    accelerator: Accelerator,
    log: RunLog | None = None,
) -> Path:
    """Draw the prompts with base and policy from fixed seeds: `<output>/samples/step-<step>.png`.

    The denoisers are those that train, so no other is loaded; VAE and text encoders are opened anew each time, and
    held no longer. A policy whose weights are spread over processes draws on all. Raises: StorageError.
    """
    family = family_of(recipe.model)
    resolution_px = None if "sample_size" in policy.config else recipe.data.resolution_px
    generation = GenerationSettings(SAMPLE_STEPS, family.guidance, resolution_px=resolution_px)
    todo = picture_requests(map(Prompt, prompts), 1, recipe.run.seed)
    pipeline = pipeline_around(recipe.model, policy).to(accelerator.device)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.vae.decode = torch.autocast(accelerator.device.type, enabled=False)(pipeline.vae.decode)
    name = family.denoiser_name
    policy.eval()
    with accelerator.autocast(), reference() as base:
        setattr(pipeline, name, base)
        before = _generated(pipeline, todo, generation)
    with accelerator.autocast():
        setattr(pipeline, name, policy)
        after = _generated(pipeline, todo, generation)
    policy.train()
    path = output / "samples" / f"step-{step:06d}.png"
    tiles = [Tile(prompt, *sides) for prompt, *sides in zip(prompts, before, after, strict=True)]
    if accelerator.is_main_process:
        save_grid(path, tiles, ("base", "policy"), f"{recipe.model}   step {step}   seed {recipe.run.seed}")
    if log is not None:
        log.write_picture(step, path)
    return path


def _generated(pipeline: Any, todo: list[PictureRequest], generation: GenerationSettings) -> list[Any]:
    return [to_picture(generate(pipeline, [one], generation)[0]).image for one in todo]
