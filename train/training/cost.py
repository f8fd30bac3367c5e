"""What a recipe costs, counted before it is run; and the micro-batch that fits a device.

A micro-step is run on the meta device, where tensors have shapes and no values: the trainer's own policy, reference,
errors and loss, at the model's full size. Matrix products, convolutions and attention are counted by PyTorch's
formulas, memory by adding up what is alive at once. Kernels' own work space and the allocator's gaps are not seen:
`USED_SHARE` leaves room for them.
"""

import math
import weakref
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import psutil
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import flop_registry

from train.config import Optimizer, Recipe
from train.data.latents import Batch
from train.data.pairs import PairSet
from train.model.families import DiffusionModel, TextStates, encoder_weights, outline
from train.model.lora import trainable
from train.model.policy import make_policy
from train.objectives import pair_loss
from train.terminal import note
from train.training.pair_errors import pair_errors

USED_SHARE = 0.85  # of the free memory, by what is counted
ENOUGH_PAIRS = 2  # with fewer in a forward a GPU waits for its kernels to be launched: then rather compute again
MOST_PAIRS = 32  # more in one forward gain nothing
ENCODING_BYTES = 5 << 29  # of activations, where the VAE encodes as many pictures at once as `latents` lets it
HALVES = {"fp16": torch.float16, "bf16": torch.bfloat16}
META = torch.device("meta")


@dataclass(frozen=True)
class Cost:
    """Of one micro-step of `pairs` pairs on one device, and of what stands in memory between them.

    weights: policy and reference. moments: the optimizer's, and the moving averages. activations: all that is alive
    beside these three at the worst moment.
    """

    pairs: int
    flop: int
    weights_bytes: int
    gradients_bytes: int
    moments_bytes: int
    activations_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.gradients_bytes + self.moments_bytes + self.activations_bytes


def cost(recipe: Recipe, pairs: int | None = None, processes: int = 1) -> Cost:
    """What a micro-step of `pairs` pairs takes, the recipe's own number if absent. Raises: ModelError."""
    pairs = recipe.run.pairs_at_once if pairs is None else pairs
    plain = replace(recipe.run, compile=False, fsdp=False, channels_last=False, gradient_checkpointing=False)
    half = HALVES.get(recipe.run.mixed_precision)
    with StepCounter() as counter:
        model = outline(recipe.model)
        policy, reference = make_policy(model, replace(recipe, run=plain), META, half or torch.float32)
        if recipe.objective.reference == "ema":
            reference = lambda: nullcontext(policy)  # noqa: E731
        with reference() as frozen:
            weights = _size_bytes(policy.parameters(), frozen.parameters())
        if recipe.run.gradient_checkpointing:
            model.denoiser.enable_gradient_checkpointing(_checkpoint(half))
        parameters = list(trainable(policy).values())
        for one in parameters:
            one.grad = torch.zeros_like(one)
        counter.most = standing = counter.now
        batch = _batch(model, recipe, pairs)
        with Autocast(half):
            errors = pair_errors(policy, reference, model.scheduler, batch, recipe.objective)
        pair_loss(errors, recipe.objective, beta=1.0).sum().backward()
    spread = processes if recipe.run.fsdp else 1
    moments = math.ceil(sum(_moment_bytes(recipe.optimizer, one) for one in parameters))
    if recipe.objective.reference == "ema":
        moments += 4 * sum(one.numel() for one in parameters)
    return Cost(
        pairs=pairs,
        flop=counter.flop,
        weights_bytes=weights // spread,
        gradients_bytes=_size_bytes(one.grad for one in parameters if one.grad is not None) // spread,
        moments_bytes=moments // spread,
        activations_bytes=counter.most - standing,
    )


def planned(recipe: Recipe, pairs: PairSet, processes: int, *, use_cache: bool) -> tuple[Recipe, dict[str, Any]]:
    """For a dry run: the recipe as this machine would fit it, and what it costs. Raises: ModelError."""
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    if is_open(recipe):
        free = free_bytes(device, recipe, use_cache=use_cache)
        recipe = fitted(recipe, free, processes)
        note(f"This machine ({device.type}) has {free / 2**30:.1f} GiB of memory free: {choice(recipe)}.")
    found, run = cost(recipe, processes=processes), recipe.run
    flop = found.flop / found.pairs * run.batch_pairs * run.steps
    return recipe, {
        "tflop_per_pair": found.flop / found.pairs / 1e12,
        "tflop": flop / 1e12,
        "device_hours_at_100_tflop_per_sec": flop / 1e14 / 3600,
        "bytes_on_each_device": {
            "weights": found.weights_bytes,
            "gradients": found.gradients_bytes,
            "moments": found.moments_bytes,
            "activations": found.activations_bytes,
            "total": found.total_bytes,
        },
        "cache_bytes": _cache_bytes(recipe, pairs),
    }


def _cache_bytes(recipe: Recipe, pairs: PairSet) -> int:
    """What a run adds to an empty latent cache: two moments of each image and mirror image, each prompt's states."""
    model = outline(recipe.model)
    latent = math.prod(model.latent_shape(recipe.data.resolution_px))
    text = model.family.text_shapes(model.denoiser.config)
    prompt = sum(tokens * width + (pooled or 0) for tokens, width, pooled in text)
    images = len(pairs.images) * (1 + recipe.data.flips) * 2 * latent
    return 2 * (images + (len(pairs.prompts) + 1) * prompt)  # float16


def is_open(recipe: Recipe) -> bool:
    """Whether it leaves something to `fitted`."""
    return "auto" in (recipe.run.micro_batch_pairs, recipe.run.gradient_checkpointing)


def choice(recipe: Recipe) -> str:
    """What `fitted` chose, in words."""
    with_or_without = "with" if recipe.run.gradient_checkpointing else "without"
    return f"{recipe.run.pairs_at_once} pairs in a forward, {with_or_without} gradient checkpointing"


def fitted(recipe: Recipe, free_bytes: int, processes: int) -> Recipe:
    """The recipe with numbers for its `auto`: without checkpointing where ENOUGH_PAIRS fit, else with.

    Then as many pairs as fit, in micro-steps of even size. Nothing that is computed depends on it beyond rounding.
    Raises: ModelError.
    """
    run = recipe.run
    share = math.ceil(run.batch_pairs / processes)
    wanted = None if run.micro_batch_pairs == "auto" else run.micro_batch_pairs
    fitting, options = 0, [False, True] if run.gradient_checkpointing == "auto" else [run.gradient_checkpointing]
    for checkpointing in options:
        recipe = replace(recipe, run=replace(run, gradient_checkpointing=checkpointing))
        fitting = _fitting_pairs(recipe, free_bytes, processes)
        if fitting >= min(share, ENOUGH_PAIRS if wanted is None else wanted):
            break
    return replace(recipe, run=replace(recipe.run, micro_batch_pairs=wanted or _even(recipe, share, fitting)))


def _fitting_pairs(recipe: Recipe, free_bytes: int, processes: int) -> int:
    """How many pairs a forward may have: memory grows evenly with them, from one to two as from any to the next."""
    one, two = (cost(recipe, pairs, processes).total_bytes for pairs in (1, 2))
    return max(0, 1 + math.floor((free_bytes * USED_SHARE - one) / (two - one)))


def _even(recipe: Recipe, share: int, fitting: int) -> int:
    """At most `fitting` pairs, so that the micro-steps of a process's share are of one size, or nearly."""
    most = max(1, min(fitting, share, MOST_PAIRS))
    if recipe.run.fsdp:  # processes gather weights together: all micro-steps must be of one size
        return max(pairs for pairs in range(1, most + 1) if share % pairs == 0)
    return math.ceil(share / math.ceil(share / most))


def free_bytes(device: torch.device, recipe: Recipe, *, use_cache: bool) -> int:
    """Memory of a device that nobody holds; without a cache the encoders will hold theirs. Raises: ModelError."""
    cpu = device.type == "cpu"
    free = psutil.virtual_memory().available if cpu else int(torch.accelerator.get_memory_info(device)[0])
    if use_cache:
        return free
    weight_bytes = 4 if recipe.run.mixed_precision == "no" else 2
    return free - weight_bytes * encoder_weights(recipe.model) - ENCODING_BYTES


def _size_bytes(*tensors: Iterable[Tensor]) -> int:
    storages = {one.untyped_storage()._cdata: one.untyped_storage().nbytes() for some in tensors for one in some}
    return sum(storages.values())


def _moment_bytes(optimizer: Optimizer, weight: Tensor) -> float:
    rows = weight.numel() / weight.shape[-1] if weight.dim() > 1 else weight.numel()
    columns = weight.numel() / weight.shape[-2] if weight.dim() > 1 else 0
    moments = {"adamw": 8 * weight.numel(), "adamw8bit": 2 * weight.numel(), "adafactor": 4 * (rows + columns)}
    return moments[optimizer.name] + 4 * weight.numel() * (optimizer.ema_decay is not None)


def _batch(model: DiffusionModel, recipe: Recipe, pairs: int) -> Batch:
    """A micro-batch of squares, on the meta device."""
    images, shape = 2 * pairs, model.latent_shape(recipe.data.resolution_px)
    texts = [
        TextStates(
            torch.empty(images, tokens, width, device=META),
            None if pooled is None else torch.empty(images, pooled, device=META),
        )
        for tokens, width, pooled in model.family.text_shapes(model.denoiser.config)
    ]
    told = model.family.joined(texts, model.text_width)
    if model.family.has_time_ids:
        told = replace(told, time_ids=torch.empty(images, 6, device=META))
    return Batch(
        latents=torch.empty(2, pairs, *shape, device=META),
        noise=torch.empty(pairs, *shape, device=META),
        timesteps=torch.zeros(pairs, dtype=torch.int64, device=META),
        conditioning=told,
    )


class StepCounter(TorchDispatchMode):
    """Bytes of the tensors that were made inside and are still held, `now` and at `most`; and FLOPs.

    PyTorch's FlopCounterMode would do for these, but it holds on to tensors that checkpointing lets go.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = self.flop = 0
        self._held: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if (formula := flop_registry.get(func._overloadpacket)) is not None:
            self.flop += formula(*args, **(kwargs or {}), out_val=found)
        for one in tree_leaves(found):
            if isinstance(one, Tensor) and (key := (storage := one.untyped_storage())._cdata) not in self._held:
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)
                self._held[key] = weakref.finalize(storage, self._let_go, key, storage.nbytes())
        return found

    def _let_go(self, key: int, size_bytes: int) -> None:
        self.now -= size_bytes
        del self._held[key]


class Autocast(TorchFunctionMode):
    """What autocast does on a GPU, for the meta device: products in half precision, norms in float32.

    Attention is one kernel that keeps no matrix of weights, in every precision.
    """

    def __init__(self, half: torch.dtype | None) -> None:
        super().__init__()
        products = (F.linear, torch.conv2d, F.conv2d, torch.matmul, torch.bmm, torch.baddbmm)
        self.dtypes = {} if half is None else dict.fromkeys(products, half)
        self.dtypes |= dict.fromkeys((F.layer_norm, F.group_norm), torch.float32) if half else {}
        self.half = half

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            given = [*args[:3], *(kwargs[name] for name in ("query", "key", "value")[len(args) :])]
            cast = [one if self.half is None else one.to(self.half) for one in given]
            return torch.ops.aten._scaled_dot_product_efficient_attention(*cast, None, True)[0]
        if (dtype := self.dtypes.get(func)) is not None:
            args = [_cast(one, dtype) for one in args]
            kwargs = {name: _cast(one, dtype) for name, one in (kwargs or {}).items()}
        return func(*args, **(kwargs or {}))


def _cast(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def _checkpoint(half: torch.dtype | None) -> Callable[..., Any]:
    """Checkpointing as diffusers does it, with the second computation under `Autocast` too."""
    contexts = lambda: (nullcontext(), Autocast(half))  # noqa: E731
    return lambda module, *args: checkpoint(module.__call__, *args, use_reentrant=False, context_fn=contexts)
