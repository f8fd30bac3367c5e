"""The training loop: the one long function, from a recipe and pairs to a saved model."""

import time
from contextlib import ExitStack, closing, nullcontext
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedType
from accelerate.utils import DistributedDataParallelKwargs, GradientAccumulationPlugin, InitProcessGroupKwargs
from torch import Tensor

from train.config import Recipe, as_toml
from train.data.batches import BatchPlan, BatchStream
from train.data.buckets import bucketed
from train.data.latent_cache.cache import open_cache
from train.data.latents import Batch, LatentSource, OnTheFly
from train.data.pairs import PairSet
from train.errors import RunDirectoryError, SettingsError
from train.files import write_json
from train.model import fsdp, saving
from train.model.compose import compose, composed
from train.model.device import check_gpu
from train.model.families import DiffusionModel, fetched, load, prompts_cut
from train.model.fsdp import whole
from train.model.lora import trainable
from train.model.memory import forget_peak, peak_memory_bytes
from train.model.policy import make_policy, whole_denoiser, with_weights
from train.objectives import pair_loss
from train.processes import by_one
from train.terminal import Reporter
from train.training import cost
from train.training.checkpointing import Checkpointing
from train.training.optimizers import MovingAverage, Parameters, make_optimizer, set_learning_rate
from train.training.output import checkpoint, run_folder
from train.training.output.card import write_card
from train.training.output.log import RunLog, mean_of_last, progress_text
from train.training.pair_errors import pair_errors, pair_metrics, step_metrics
from train.training.steering.beta_aim import BetaAim
from train.training.steering.guard import Guard, enough_memory_to_train
from train.training.steering.loss_scale import find_loss_scale
from train.training.validation import sample_grid, validate

DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# How long processes wait for one of them: while it fills the cache, and from the first step on, when it may write.
CACHE_TIMEOUT, STEP_TIMEOUT = timedelta(days=1), timedelta(minutes=30)


def run_training(
    recipe: Recipe, pairs: PairSet, output: Path, *, resume: bool, cache: Path | None = None, use_cache: bool = True
) -> dict[str, Any] | None:
    """Train, save checkpoints and the model under `output`; the summary, on the main process only.

    An optimizer step takes `run.batch_pairs` pairs over all processes, and its metrics are means over all
    of them. Every draw depends on (seed, step, position) alone, so a resumed run equals an uninterrupted one.
    cache: folder of the latents; absent, one beside the shards. Without `use_cache` they are encoded each time.
    Raises: TrainError and its children.
    """
    run, accelerator = recipe.run, open_accelerator(recipe)
    main, device, processes = accelerator.is_main_process, accelerator.device, accelerator.num_processes
    recipe, parts = composed(recipe, output)
    settings = run_folder.settings_of(recipe, pairs.shard_hashes, latent_cache=use_cache) | parts
    finished = run_folder.finished_summary(output, settings, resume=resume)
    agreed_step(accelerator, output, 0 if finished is None else run.steps)  # all have looked before one writes
    with ExitStack() as stack:
        reporter = stack.enter_context(Reporter(main=main))
        if finished is not None:
            reporter.say(f"{output} holds this run, finished: nothing to do.")
            return finished if main else None
        recipe = fit_to_device(recipe, parts, accelerator, reporter, use_cache=use_cache)
        run, objective, settings["recipe"] = recipe.run, recipe.objective, recipe.as_table()
        stack.enter_context(enough_memory_to_train(recipe))
        by_one(accelerator, partial(run_folder.begin, output, settings, reporter.say))
        reporter.say(f"Training on {device}, {processes} process(es), mixed precision {run.mixed_precision}.")

        # The model and its latents; the encoders are let go once the cache stands.
        if not fetched(recipe.model):
            reporter.say(f"Fetching {recipe.model} from the hub, once: some 4 to 30 GB.")
        model = load(recipe.model)
        model = replace(model, zero_empty_prompt=model.zero_empty_prompt and recipe.data.empty_prompts == "pipeline")
        latent_shape = model.latent_shape(recipe.data.resolution_px)
        if recipe.data.buckets:
            pairs = bucketed(pairs, recipe.data.resolution_px, model.multiple_px)
        encoded, cut = open_encoded(model, pairs, recipe, accelerator, reporter, cache, use_cache=use_cache)
        denoiser, reference = make_policy(model, recipe, device, DTYPES[run.mixed_precision], processes)
        family, scheduler = model.family, model.scheduler
        del model

        # The optimizer of what is trained; a checkpoint's state goes back in before the first step.
        parameters = trainable(denoiser)
        plain_optimizer = make_optimizer(recipe.optimizer, parameters, device)
        policy = denoiser if run.fsdp else accelerator.prepare(denoiser)
        optimizer = accelerator.prepare(plain_optimizer)
        averages = moving_averages(recipe, parameters)
        if moving := averages.get(checkpoint.REFERENCE):
            reference = partial(with_weights, denoiser, parameters, moving.averages)
        guard = Guard(recipe.optimizer.skip_grad_norm_over, run.stop_winner_error_over, run.stop_winner_error_steps)
        aim = BetaAim(objective, scheduler)
        checkpoints = Checkpointing(output, run, parameters, plain_optimizer, averages, accelerator, guard, aim)
        newest = checkpoint.newest(output, reporter.say)
        first_step = agreed_step(accelerator, output, 0 if newest is None else newest.step)
        if newest is not None:
            checkpoints.restore(newest)
            reporter.say(f"Resuming after step {first_step}.")
        plan = BatchPlan(
            recipe=recipe,
            pairs=pairs,
            encoded=encoded,
            device=device,
            timesteps=scheduler.config["num_train_timesteps"],
            latent_shape=latent_shape,
            rank=accelerator.process_index,
            processes=processes,
        )
        let_nobody_wait_long(processes)
        batches = stack.enter_context(closing(BatchStream(plan, first_step)))
        announce(reporter, recipe, pairs, cut, len(plan.micro_steps), processes)
        log = stack.enter_context(RunLog(output, first_step, recipe)) if main else None
        stack.enter_context(checkpoints)
        began = time.perf_counter()

        def backward(batch: Batch) -> dict[str, Tensor]:
            """Gradients of its share of the mean loss; processes average theirs, hence the factor. Metrics by pair."""
            with accelerator.autocast():
                errors = pair_errors(policy, reference, scheduler, batch, objective)
            losses = pair_loss(errors, objective, batch.of_pairs, beta := aim.of(batch))
            accelerator.backward(losses.sum() * (processes / run.batch_pairs))
            return pair_metrics(errors, losses, beta, batch.timesteps / plan.timesteps)

        if accelerator.scaler is not None and newest is None:
            find_loss_scale(accelerator, plan, policy, optimizer, backward, reporter)

        for step in range(first_step, run.steps):
            step_began = time.perf_counter()
            rate = set_learning_rate(plain_optimizer, recipe.optimizer, step, run.steps)
            sums = torch.zeros((), device=device)

            # Each micro-step adds its share of the gradients; processes meet in the last one only.
            last_micro_step = False
            while not last_micro_step:
                checkpoints.leave_step(step)
                batch, last_micro_step = next(batches)
                with nullcontext() if last_micro_step else accelerator.no_sync(policy):
                    per_pair = backward(batch)
                sums = sums + torch.stack([values.sum() for values in per_pair.values()])

            # One look at the device a step: the sums of all processes and the gradient's norm, which tell
            # whether the step may be taken, and what processes wish. Under fp16 the scaler must hear of every step.
            norm = accelerator.clip_grad_norm_(parameters.values(), recipe.optimizer.max_grad_norm)
            sums = torch.cat([sums, sums.new_tensor(checkpoints.wishes())])
            means = accelerator.reduce(sums, "sum") / run.batch_pairs
            *values, stopping, old, grad_norm = torch.cat([means, whole(norm).reshape(1)]).tolist()
            scale_used = {} if accelerator.scaler is None else {"loss_scale": accelerator.scaler.get_scale()}
            fault = guard.fault(values[0], grad_norm, accelerator.scaler)
            if fault is None:
                optimizer.step()
            elif accelerator.scaler is not None:
                accelerator.scaler.update()
            optimizer.zero_grad()
            metrics = step_metrics(dict(zip(per_pair, values, strict=True))) | {"beta": aim.value}
            if fault is None:
                aim.update(metrics["margin_size"])
                for average in averages.values():
                    average.update(parameters)

            done = step + 1
            metrics |= {"learning_rate": rate, "grad_norm": grad_norm, **speed(recipe, batches, step_began, device)}
            metrics |= {"skipped_steps": guard.skipped, **scale_used}
            if run.validate_every_steps and done % run.validate_every_steps == 0:
                metrics |= validate(plan, denoiser, reference, aim, accelerator)
            if log is not None:
                log.write(done, metrics)
            reporter.advance("train", done, run.steps, progress_text(metrics))
            if fault is not None:
                reporter.say(f"Step {done} skipped: {fault}.")
                last_good = checkpoint.newest(output, reporter.say)
                guard.stop_if_diverged(done, fault, None if last_good is None else last_good.folder)
            winner_errors = metrics["policy_mse_preferred"], metrics["reference_mse_preferred"]
            guard.stop_if_winner_is_lost(done, *winner_errors, partial(checkpoint.newest, output, reporter.say))
            checkpoints.after_step(done, stopping=stopping, old=old)
            if (main or run.fsdp) and run.sample_every_steps and done % run.sample_every_steps == 0:
                prompts = plan.prompts(run.sample_prompts)
                sample_grid(output, done, recipe, prompts, denoiser, reference, accelerator, log)

        if checkpoint.AVERAGE in averages:
            averages[checkpoint.AVERAGE].copy_to(parameters)
        denoiser = whole_denoiser(denoiser, recipe, keep=main)
        accelerator.end_training()
        if not main:
            return None
        summary = summary_of(recipe, output, pairs, cut, guard, time.perf_counter() - began, device)
        facts = {**pairs.counts(), **summary, "source": pairs.source}
        card = partial(write_card, settings=settings, facts=facts, log=output / "log.jsonl")
        with saving.resumable(output):
            saving.save_model(output, denoiser, family, settings, pairs.source, card)
        write_json(output / run_folder.SUMMARY, summary)
        return summary


def moving_averages(recipe: Recipe, parameters: Parameters) -> dict[str, MovingAverage]:
    """Of the weights that are saved, and of a reference that moves, by their file in a checkpoint."""
    decays = {checkpoint.AVERAGE: recipe.optimizer.ema_decay}
    if recipe.objective.reference == "ema":
        decays[checkpoint.REFERENCE] = recipe.objective.reference_decay
    return {name: MovingAverage(parameters, decay) for name, decay in decays.items() if decay is not None}


def speed(recipe: Recipe, batches: BatchStream, step_began: float, device: torch.device) -> dict[str, float]:
    """What the log tells of a step's speed and memory."""
    seconds = time.perf_counter() - step_began
    return {
        "pairs_per_sec": recipe.run.batch_pairs / seconds,
        "data_wait_share": batches.waited_sec() / seconds,
        "peak_memory_bytes": peak_memory_bytes(device),
    }


def summary_of(
    recipe: Recipe, output: Path, pairs: PairSet, cut: list[int], guard: Guard, seconds: float, device: torch.device
) -> dict[str, Any]:
    """The final numbers of a run, as summary.json has them. cut: prompts longer than each text encoder takes."""
    return {
        "model": str(output / "model"),
        "base": recipe.model,
        "steps": recipe.run.steps,
        "pairs": len(pairs.pairs),
        "pairs_drawn": recipe.run.steps * recipe.run.batch_pairs,
        "prompts_cut": max(cut),
        "seconds": round(seconds, 2),
        **mean_of_last(output / "log.jsonl"),
        "skipped_steps": guard.skipped,
        "peak_memory_bytes": peak_memory_bytes(device),
    }


def open_accelerator(recipe: Recipe) -> Accelerator:
    """Raises: SettingsError when this machine cannot do what the recipe asks for."""
    precision, wanted = recipe.run.mixed_precision, recipe.run.batch_pairs
    if precision == "fp16" and not torch.accelerator.is_available():
        raise SettingsError(
            'run.mixed_precision "fp16" needs a GPU; set it to "no" or "bf16" in a file given by --config.'
        )
    check_gpu(precision)
    accelerator = Accelerator(
        mixed_precision=precision,
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),  # the launcher's would divide the loss
        kwargs_handlers=[
            InitProcessGroupKwargs(timeout=CACHE_TIMEOUT),
            DistributedDataParallelKwargs(gradient_as_bucket_view=True),  # or each gradient is held twice
        ],
    )
    _check_distribution(accelerator.distributed_type)
    if wanted < accelerator.num_processes:
        raise SettingsError(
            f"run.batch_pairs is {wanted}, but {accelerator.num_processes} processes are to share them."
        )
    return accelerator


def fit_to_device(
    recipe: Recipe, parts: dict[str, Any], accelerator: Accelerator, reporter: Reporter, *, use_cache: bool
) -> Recipe:
    """Numbers for what the recipe leaves to the free memory, the same on all processes, once the model is composed.

    Raises: ModelError, StorageError.
    """
    processes = accelerator.num_processes
    if parts and not Path(recipe.model).is_dir():
        source = parts["composed_of"]["model"]
        reporter.say(f"Putting {source} together in {recipe.model}; what the hub has of it is fetched, 4 to 30 GB.")
    by_one(accelerator, lambda: compose(parts["composed_of"], Path(recipe.model)) if parts else None)
    if cost.is_open(recipe):
        device = accelerator.device
        free = torch.tensor([cost.free_bytes(device, recipe, use_cache=use_cache) // 2**20], device=device)
        free_mib = int(accelerator.gather(free).min())
        recipe = cost.fitted(recipe, free_mib * 2**20, processes)
        reporter.say(f"{free_mib:,} MiB of memory are free: {cost.choice(recipe)}.")
    fsdp.check(recipe, processes)
    return recipe


def agreed_step(accelerator: Accelerator, output: Path, step: int) -> int:
    """The step that this process found in `output`, when all others found the same. Raises: RunDirectoryError."""
    steps = accelerator.gather(torch.tensor([step], device=accelerator.device)).tolist()
    if len(set(steps)) > 1:
        found = ", ".join(f"process {process} after step {found}" for process, found in enumerate(steps))
        raise RunDirectoryError(
            f"The processes would go on from different steps in {output}: {found};"
            " to resume, give all machines one --output that they share."
        )
    return step


def let_nobody_wait_long(processes: int) -> None:
    """From here on a process that hangs ends the run after STEP_TIMEOUT, instead of holding all devices for a day."""
    if processes > 1:
        distributed = torch.distributed  # older ones have the function under another name
        set_timeout = getattr(distributed, "set_timeout", None) or distributed.distributed_c10d._set_pg_timeout
        set_timeout(STEP_TIMEOUT)


def _check_distribution(kind: DistributedType) -> None:
    """What accelerate would wrap the denoiser in; the one kind of spread weights that checkpoints know is ours."""
    if kind in (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM):
        raise SettingsError(
            f"accelerate's own {kind.value} is not supported; launch without it, and set run.fsdp = true in a file"
            " given by --config, which spreads weights, gradients and moments over the processes."
        )


def open_encoded(
    model: DiffusionModel,
    pairs: PairSet,
    recipe: Recipe,
    accelerator: Accelerator,
    reporter: Reporter,
    cache: Path | None,
    *,
    use_cache: bool,
) -> tuple[LatentSource, list[int]]:
    """Where batches come from, and how many prompts were cut at each text encoder's length."""
    resolution_px, flips, device = recipe.data.resolution_px, recipe.data.flips, accelerator.device
    if use_cache:
        opened = open_cache(cache, model, pairs, accelerator, reporter, resolution_px=resolution_px, flips=flips)
        forget_peak(device)
        return opened, opened.prompts_cut
    dtype = DTYPES[recipe.run.mixed_precision]
    upcast = model.family.vae_may_overflow and model.vae.config.get("force_upcast", True)
    model.vae.to(device, torch.float32 if upcast else dtype)
    for encoder in model.text_encoders:
        encoder.to(device, dtype)
    return OnTheFly(model, pairs, resolution_px), prompts_cut(model, pairs.prompts)


def announce(
    reporter: Reporter, recipe: Recipe, pairs: PairSet, prompts_cut: list[int], micro_steps: int, processes: int
) -> None:
    """What a run is about to do, and what it found in the data, before the first step."""
    run = recipe.run
    reporter.say(as_toml(recipe.as_table()))
    reporter.say(
        f"{run.batch_pairs} pairs a step: {processes} process(es), {micro_steps} micro-step(s)"
        f" of at most {run.pairs_at_once}; {run.steps} steps over {len(pairs.pairs)} pairs:"
        f" {run.epochs(len(pairs.pairs)):.3g} epochs."
    )
    for number, cut in enumerate(prompts_cut, start=1):
        encoder = f"text encoder {number}" if len(prompts_cut) > 1 else "the text encoder"
        if cut:
            reporter.say(f"{cut} of {len(pairs.prompts)} prompts are longer than {encoder} takes; cut there.")
    if pairs.unequal_sides:
        reporter.say(
            f"{len(pairs.unequal_sides)} of {len(pairs.pairs)} pairs have sides of different sizes, each scaled and"
            f" cut at its middle on its own; the first is {pairs.unequal_sides[0]}."
        )
