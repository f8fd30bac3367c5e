"""`train run` on the device by each of its paths, beside the same run in float32 on the CPU; tiny models."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu.parts.own_training import Step, run
from benchmarks.gpu.parts.pipelines import write_pipeline
from benchmarks.gpu.plan import Bench, Row
from benchmarks.speed.small_sd import write_pairs

SIDE_PX, PAIRS, STEPS = 64, 8, 4
LN2 = math.log(2)
EXACT, HALF = 0.01, 0.05  # of losses near 0.69; in float32 a GPU's convolutions are TF32
OTHER_KERNELS = {"compile", "channels_last"}  # policy and reference may not be equal to the bit under these
LORA: dict[str, Any] = {"lora": {"rank": 4}}
CHECKPOINTING = {"run": {"gradient_checkpointing": True}}
ADAFACTOR = {"optimizer": {"name": "adafactor"}} | CHECKPOINTING


@dataclass(frozen=True)
class Way:
    """A way to train: the model's size, the precision, what else of the recipe, and options of `train run`."""

    size: str
    precision: str
    recipe: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    name: str = ""

    @property
    def shown(self) -> str:
        kind = "LoRA" if "lora" in self.recipe else "full"
        return f"{self.size.removeprefix('tiny-')}, {kind}, {self.precision}{self.name}"


def ways(bench: Bench) -> list[Way]:
    """The most used first. The CPU has no fp16 training: a rehearsal takes bf16 in its place, and compiles nothing."""
    fp16 = "bf16" if bench.rehearse else "fp16"
    found = [
        Way("tiny-sd15", fp16, LORA),
        Way("tiny-sd15", fp16),
        Way("tiny-sdxl", fp16, LORA),
        Way("tiny-sd3", "bf16", LORA),
        Way("tiny-sdxl", fp16, ADAFACTOR, name=", adafactor, checkpointing"),
        Way("tiny-sd15", "bf16", {"run": {"channels_last": True}}, name=", channels last"),
        Way("tiny-sd15", "no"),
        Way("tiny-sd15", "no", options={"use_cache": False}, name=", no cache"),
    ]
    if not bench.rehearse:
        found.append(Way("tiny-sd15", "bf16", LORA | {"run": {"compile": True}}, name=", compiled"))
    return found


def measure(bench: Bench) -> Iterator[Row]:
    """The first loss is ln 2 in every precision, since the policy is its reference; then the losses go alike."""
    shards, exact = bench.folder / "shards", dict[str, list[float]]()
    write_pairs(None, shards, side_px=SIDE_PX, pairs=PAIRS)
    for way in ways(bench):
        model = bench.folder / way.size
        if not model.exists():
            write_pipeline(model, way.size, "cpu")
        reference = Way(way.size, "no", {key: way.recipe[key] for key in way.recipe if key != "run"})
        if reference.shown not in exact:
            exact[reference.shown] = losses(trained(bench, reference, model, shards, "exact", on_cpu=True))
        found = trained(bench, way, model, shards, bench.device)
        first, delta = losses(found)[0], _largest(losses(found), exact[reference.shown])
        other_kernels = OTHER_KERNELS & way.recipe.get("run", {}).keys()
        yield Row(f"{way.shown}: first loss less ln 2", abs(first - LN2), at_most=HALF if other_kernels else 1e-5)
        yield Row(f"{way.shown}: Δ of losses", delta, at_most=EXACT if way.precision == "no" else HALF)
    yield resumed(bench, shards)


def trained(bench: Bench, way: Way, model: Path, shards: Path, name: str, **options: Any) -> list[Step]:
    """The steps of one run into its own folder, with its model saved at the end."""
    settings: dict[str, Any] = {
        "data": {"resolution_px": SIDE_PX},
        "objective": {"beta": 100.0},
        "optimizer": {"learning_rate": 1e-4, "warmup_steps": 0} | way.recipe.get("optimizer", {}),
        "run": {"steps": STEPS, "batch_pairs": 4, "micro_batch_pairs": 2, "mixed_precision": way.precision}
        | way.recipe.get("run", {}),
    }
    folder = bench.folder / "runs" / f"{way.shown} {name}".replace(" ", "-").replace(",", "")
    cache = {"cache": folder.with_suffix(".latents")}  # of its own, so that its encoders are put to the test, too
    return run(folder, model, shards, "demo", way.recipe | settings, **(cache | way.options | options))


def resumed(bench: Bench, shards: Path) -> Row:
    """Half of a run, taken up again, beside the whole run: with fp16 the loss scale goes along."""
    way = ways(bench)[0]
    model = bench.folder / way.size
    whole = losses(trained(bench, way, model, shards, "whole"))
    half = Way(way.size, way.precision, way.recipe | {"run": {"steps": STEPS // 2}})
    begun = losses(trained(bench, half, model, shards, "resumed"))
    rest = losses(trained(bench, way, model, shards, "resumed", resume=True))
    return Row(f"{way.shown}: Δ of losses of a run resumed halfway", _largest(begun + rest, whole), at_most=1e-4)


def losses(steps: list[Step]) -> list[float]:
    return [step["loss"] for step in steps]


def _largest(one: list[float], other: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))
