"""Training at the published sizes on random weights: ours by its settings, and the peers' scripts at their best."""

import itertools
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu.parts.ceilings import matmul_tflops
from benchmarks.gpu.parts.own_training import Step, timed
from benchmarks.gpu.parts.pipelines import UNETS, write_pipeline
from benchmarks.gpu.plan import Bench, Row, goal
from benchmarks.speed.small_sd import PAIRS, write_pairs
from benchmarks.speed.train import Workshop, peer
from train.errors import MemoryFullError

WARM_STEPS, STEPS = 2, 4  # not timed, and timed
COMPILE_SEC = 90  # what compiling may take, about
GIB = 2**30


@dataclass(frozen=True)
class Kind:
    """A LoRA or a full fine-tune of a size; how often it is to be as fast as the peer's, and its share of memory.

    forwards: of the denoiser, that a step costs each image. A LoRA's policy is run forwards and, for its activations
    alone, backwards; a full fine-tune also backwards for its weights; either has one forward of the reference.
    """

    name: str
    preset: str
    forwards: int
    times: float
    memory: float
    lora: bool


@dataclass(frozen=True)
class Size:
    """A published size, its tiny stand-in, and how pairs are cut: of a step, and at most at once."""

    name: str
    side_px: int
    pairs: int
    kinds: tuple[Kind, ...]

    def of(self, bench: Bench) -> str:
        return f"tiny-{self.name}" if bench.rehearse else self.name


SD15 = Size(
    "sd15",
    512,
    32,
    (
        Kind("LoRA", "sd15-lora", 3, times=2.0, memory=0.6, lora=True),
        Kind("full", "sd15", 4, times=4.0, memory=0.6, lora=False),
    ),
)
SDXL = Size(
    "sdxl",
    1024,
    8,
    (
        Kind("LoRA", "sdxl-lora", 3, times=1.8, memory=1.0, lora=True),
        Kind("full", "sdxl", 4, times=1.8, memory=1.0, lora=False),
    ),
)
# Changes of the preset, the most telling first. The preset itself is what a user gets.
CHANGES: dict[str, dict[str, Any]] = {
    "as the preset": {},
    "channels last": {"channels_last": True},
    "compiled": {"compile": True},
}
FULL_GIB = 80.0  # what a full fine-tune of SDXL must fit


def sd15(bench: Bench) -> Iterator[Row]:
    """At 512 px."""
    return _measure(bench, SD15)


def sdxl(bench: Bench) -> Iterator[Row]:
    """At 1024 px."""
    return _measure(bench, SDXL)


def _measure(bench: Bench, size: Size) -> Iterator[Row]:
    """Each kind: ours as the preset says, the peer, then what else may help; all on the same pairs."""
    side_px = 64 if bench.rehearse else size.side_px
    shop = Workshop(bench.folder, steps=2 if bench.rehearse else STEPS, batch=2 if bench.rehearse else size.pairs)
    write_pairs(shop.root / "pickapic", shop.shards, side_px=side_px, pairs=8 if bench.rehearse else PAIRS)
    write_pipeline(shop.model, size.of(bench), bench.device)
    tflop, most = unet_tflop(size.of(bench), side_px), matmul_tflops(bench)
    for change, kind in itertools.product(CHANGES, size.kinds):
        name = f"{size.name}, {kind.name}, {change}"
        if "compile" in CHANGES[change] and not bench.rehearse and bench.left_sec < COMPILE_SEC:
            yield Row(f"{name}: pairs", None, note="no time was left")
            continue
        ours = own(bench, shop, kind, CHANGES[change], name, side_px)
        if ours is None:
            yield Row(f"{name}: pairs", None, note="it does not fit into this device's memory")
            continue
        yield from rows_of(name, ours, 2 * kind.forwards * tflop, most)
        if change == "as the preset":
            yield from beside_peer(bench, shop, size, kind, ours, side_px)
            if size is SDXL and not kind.lora:
                what = f"{name}: memory, which 80 GB must hold"
                yield Row(what, ours["peak_memory_bytes"] / GIB, "GiB", at_most=goal(bench, FULL_GIB / 1.074))


def own(
    bench: Bench, shop: Workshop, kind: Kind, change: dict[str, Any], name: str, side_px: int
) -> dict[str, float] | None:
    """Our pairs a second and memory; None where memory does not suffice."""
    run = {"batch_pairs": shop.batch} | change
    if bench.rehearse:
        run |= {"mixed_precision": "no"}
    recipe: dict[str, Any] = {"data": {"resolution_px": side_px}, "run": run, "optimizer": {"warmup_steps": 0}}
    folder = bench.folder / "runs" / name.replace(" ", "-").replace(",", "")
    try:
        steps = timed(folder, shop.model, shop.shards, kind.preset, recipe, WARM_STEPS + shop.steps)
    except MemoryFullError:
        return None
    return speeds(steps, shop.batch)


def speeds(steps: list[Step], pairs: int) -> dict[str, float]:
    """Of the median step after the first ones."""
    spans = [later["time"] - earlier["time"] for earlier, later in itertools.pairwise(steps[WARM_STEPS - 1 :])]
    memory = max(step.get("peak_memory_bytes", 0) for step in steps)
    return {"pairs_per_sec": pairs / statistics.median(spans), "peak_memory_bytes": memory}


def rows_of(name: str, found: dict[str, float], pair_tflop: float, most: float) -> Iterator[Row]:
    """Speed, memory, and how much of the device's arithmetic the model's own makes up."""
    pairs = found["pairs_per_sec"]
    note = f"{pairs * pair_tflop:.3g} TFLOP/s, {pairs * pair_tflop / most:.1%} of the matrix product's"
    yield Row(f"{name}: pairs", pairs, "pairs/s", note=note)
    yield Row(f"{name}: memory", found["peak_memory_bytes"] / GIB, "GiB")


def beside_peer(
    bench: Bench, shop: Workshop, size: Size, kind: Kind, ours: dict[str, float], side_px: int
) -> Iterator[Row]:
    """How many times as fast as the published script, and with what part of its memory."""
    script = script_of(bench, size, kind)
    if isinstance(script, str):
        yield Row(f"{size.name}, {kind.name}: beside the published script", None, note=script)
        return
    options: dict[str, Any] = {"resolution": side_px, "dataloader_num_workers": 0 if bench.rehearse else 8}
    if not bench.rehearse:
        options |= {"mixed_precision": "fp16", "allow_tf32": True}
    if size is SDXL and not kind.lora:
        options |= {"sdxl": True, "use_adafactor": True}
    failed, half = "", replace(shop, batch=max(1, shop.batch // 2))  # all of a step at once, which fits more often
    for saving in ({}, {"gradient_checkpointing": True}):  # its best: the fast way, where it fits
        try:
            theirs = peer(half, script, WARM_STEPS + shop.steps, lora=kind.lora, options=options | saving)
        except SystemExit as error:
            failed = str(error).strip().splitlines()[-1]
            continue
        name = f"{size.name}, {kind.name}, {script.name}"
        fast, memory = statistics.median(theirs["time"]), theirs["peak_memory_bytes"]
        yield Row(f"{name}: pairs", fast, "pairs/s", note="with checkpointing" if saving else "")
        times = ours["pairs_per_sec"] / fast
        yield Row(f"{name}: ours as the preset, times as fast", times, at_least=goal(bench, kind.times))
        if memory:
            of_memory = ours["peak_memory_bytes"] / memory
            yield Row(f"{name}: ours, of its memory", of_memory, at_most=goal(bench, kind.memory))
        return
    yield Row(f"{size.name}, {kind.name}: beside {script.name}", None, note=f"it failed: {failed}")


def script_of(bench: Bench, size: Size, kind: Kind) -> Path | str:
    """The published script, or why there is none."""
    given, option = (bench.diffusers, "--diffusers") if kind.lora else (bench.salesforce, "--salesforce")
    if given is None:
        return f"no {option} DIR was given"
    lora = "train_diffusion_dpo_sdxl.py" if size is SDXL else "train_diffusion_dpo.py"
    script = Path(given) / (lora if kind.lora else "train.py")
    return script if script.is_file() else f"{script} is not there"


def unet_tflop(size: str, side_px: int) -> float:
    """Of one forward of one image, counted on its architecture alone."""
    config = UNETS[size]
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
        text = torch.zeros(1, 77, config["cross_attention_dim"])
        latents, pooled = torch.zeros(1, 4, side_px // 8, side_px // 8), None
        if "projection_class_embeddings_input_dim" in config:
            width = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
            pooled = {"text_embeds": torch.zeros(1, width), "time_ids": torch.zeros(1, 6)}
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            unet(latents, torch.zeros(1), text, added_cond_kwargs=pooled)
    return counter.get_total_flops() / 1e12
