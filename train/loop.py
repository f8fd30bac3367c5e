"""The training loop: the one long function, from a recipe and pairs to a saved model."""

import time
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from train import checkpoint, export, rundir
from train.config import Optimizer, Recipe
from train.draws import draw, pair_at, positions
from train.errors import SettingsError
from train.files import write_json
from train.latents import LatentCache, assemble, build_cache
from train.loss import PairErrors, implicit_accuracy, pair_loss
from train.models import DiffusionModel, load, trainable
from train.pairs import PairSet
from train.policy import make_policy, pair_errors
from train.record import Reporter, RunLog, mean_of_last, shown

DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
METRICS = (  # summed over pairs, in the order of `metric_sums`
    "loss",
    "policy_mse_preferred",
    "policy_mse_rejected",
    "reference_mse_preferred",
    "reference_mse_rejected",
    "policy_margin",
    "reference_margin",
    "implicit_accuracy",
)


def train(recipe: Recipe, pairs: PairSet, output: Path, *, resume: bool) -> dict[str, Any] | None:
    """Train, save checkpoints and the model under `output`; the summary, on the main process only.

    An optimizer step takes `run.batch_pairs` pairs over all processes, and its metrics are means over all
    of them. Every draw depends on (seed, step, position) alone, so a resumed run equals an uninterrupted one.
    Raises: TrainError and its children.
    """
    run, accelerator = recipe.run, open_accelerator(recipe)
    main, device, processes = accelerator.is_main_process, accelerator.device, accelerator.num_processes
    settings = rundir.settings_of(recipe, pairs.shard_hashes)
    finished = rundir.finished_summary(output, settings, resume=resume)
    accelerator.wait_for_everyone()  # all have looked before one writes
    with ExitStack() as stack:
        reporter = stack.enter_context(Reporter(main=main))
        if finished is not None:
            reporter.say(f"{output} holds this run, finished: nothing to do.")
            return finished if main else None
        if main:
            rundir.begin(output, settings)
        accelerator.wait_for_everyone()
        reporter.say(f"Training on {device}, {processes} process(es), mixed precision {run.mixed_precision}.")

        # The model and the cache; its encoders are let go once the cache stands.
        model = load(recipe.model)
        latent_shape = model.latent_shape(recipe.data.resolution_px)
        cache = open_cache(output / rundir.CACHE, model, pairs, recipe, accelerator, reporter)
        unet, reference = make_policy(model, recipe, device, DTYPES[run.mixed_precision])
        family, scheduler = model.family, model.scheduler
        del model

        # AdamW on what is trained; a checkpoint's state goes back in before the first step.
        parameters = trainable(unet)
        adamw = torch.optim.AdamW(
            parameters.values(),
            betas=recipe.optimizer.betas,
            eps=recipe.optimizer.epsilon,
            weight_decay=recipe.optimizer.weight_decay,
        )
        policy, optimizer = accelerator.prepare(unet, adamw)
        found = checkpoint.newest(output, reporter.say)
        if found is not None:
            checkpoint.restore(found, parameters, adamw)
            if accelerator.scaler is not None:
                accelerator.scaler.load_state_dict(found.loss_scale)
            reporter.say(f"Resuming after step {found.step}.")
        first_step = 0 if found is None else found.step
        log = stack.enter_context(RunLog(output, first_step, main=main))
        micro_steps = positions(run.batch_pairs, run.micro_batch_pairs, accelerator.process_index, processes)
        began = time.perf_counter()

        for step in range(first_step, run.steps):
            step_began = time.perf_counter()
            rate = learning_rate(recipe.optimizer, step)
            for group in adamw.param_groups:
                group["lr"] = rate
            sums = torch.zeros(len(METRICS), device=device)

            # Gradients of the mean loss over the whole batch: each micro-step adds its share of the sum.
            # Processes average theirs, hence the factor; they meet in the last micro-step only.
            for number, micro_step in enumerate(micro_steps, start=1):
                draws = [
                    draw(
                        run.seed,
                        step,
                        position,
                        pair=pair_at(run.seed, len(pairs.pairs), step * run.batch_pairs + position),
                        timesteps=scheduler.config["num_train_timesteps"],
                        latent_shape=latent_shape,
                        data=recipe.data,
                    )
                    for position in micro_step
                ]
                batch = assemble(cache, pairs, draws, device)
                last = number == len(micro_steps)
                with nullcontext() if last else accelerator.no_sync(policy):
                    with accelerator.autocast():
                        errors = pair_errors(policy, reference, scheduler, batch)
                    losses = pair_loss(errors, recipe.objective)
                    accelerator.backward(losses.sum() * (processes / run.batch_pairs))
                sums += metric_sums(errors, losses)

            norm = accelerator.clip_grad_norm_(parameters.values(), recipe.optimizer.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()

            # One look at the device a step: the sums of all processes, and the gradient's norm.
            means = accelerator.reduce(sums, "sum") / run.batch_pairs
            *values, grad_norm = torch.cat([means, norm.reshape(1)]).tolist()
            metrics = dict(zip(METRICS, values, strict=True)) | {
                "learning_rate": rate,
                "grad_norm": grad_norm,
                "pairs_per_sec": run.batch_pairs / (time.perf_counter() - step_began),
            }
            done = step + 1
            log.write(done, metrics)
            reporter.advance("train", done, run.steps, shown(metrics))
            if main and (done % run.checkpoint_every_steps == 0 or done == run.steps):
                scale = {} if accelerator.scaler is None else accelerator.scaler.state_dict()
                checkpoint.save(output, done, parameters, adamw, scale, keep=run.keep_checkpoints)

        accelerator.end_training()
        if not main:
            return None
        folder = export.save_model(output, unet, family, lora=recipe.lora is not None, settings=settings)
        summary = {
            "model": str(folder),
            "base": recipe.model,
            "steps": run.steps,
            "pairs": len(pairs.pairs),
            "pairs_drawn": run.steps * run.batch_pairs,
            "seconds": round(time.perf_counter() - began, 2),
            **mean_of_last(output / "log.jsonl"),
        }
        write_json(output / rundir.SUMMARY, summary)
        return summary


def open_accelerator(recipe: Recipe) -> Accelerator:
    """Raises: SettingsError when this machine cannot do what the recipe asks for."""
    precision, wanted = recipe.run.mixed_precision, recipe.run.batch_pairs
    if precision == "fp16" and not torch.accelerator.is_available():
        raise SettingsError(
            'run.mixed_precision "fp16" needs a GPU; set it to "no" or "bf16" in a file given by --config.'
        )
    accelerator = Accelerator(mixed_precision=precision)
    if wanted < accelerator.num_processes:
        raise SettingsError(
            f"run.batch_pairs is {wanted}, but {accelerator.num_processes} processes are to share them."
        )
    return accelerator


def open_cache(
    folder: Path,
    model: DiffusionModel,
    pairs: PairSet,
    recipe: Recipe,
    accelerator: Accelerator,
    reporter: Reporter,
) -> LatentCache:
    """Encode this process's share of images and prompts, wait for the others', open all."""
    dtype = DTYPES[recipe.run.mixed_precision]
    upcast = bool(model.vae.config.get("force_upcast", True))  # SDXL's VAE overflows in half precision
    model.vae.to(accelerator.device, torch.float32 if upcast else dtype)
    for encoder in model.text_encoders:
        encoder.to(accelerator.device, dtype)
    build_cache(
        folder,
        model,
        pairs,
        resolution_px=recipe.data.resolution_px,
        flips=recipe.data.flips,
        rank=accelerator.process_index,
        parts=accelerator.num_processes,
        progress=lambda done, total: reporter.advance("encode images", done, total),
    )
    accelerator.wait_for_everyone()
    return LatentCache(folder, accelerator.num_processes)


def learning_rate(optimizer: Optimizer, step: int) -> float:
    """Of step `step`, counted from 0: linear warm-up that reaches the full rate at `warmup_steps`."""
    return optimizer.learning_rate * min(1.0, (step + 1) / max(1, optimizer.warmup_steps))


def metric_sums(errors: PairErrors, losses: Tensor) -> Tensor:
    """The METRICS of a micro-batch, summed over its pairs, on the device and without gradient."""
    per_pair = (
        losses,
        errors.policy_w,
        errors.policy_l,
        errors.reference_w,
        errors.reference_l,
        errors.policy_margin,
        errors.reference_margin,
        implicit_accuracy(errors),
    )
    return torch.stack([values.detach().float().sum() for values in per_pair])
