"""`curate embed --dry-run`: what the towers cost by count, and with `--calibrate` the time to expect on this device."""

import itertools
import time
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa

from curate.embed.decode.reading import Batch, EncodedImage
from curate.embed.device.batch_size import make_ready, probe, rate_of
from curate.embed.device.pipeline import open_decode_pool
from curate.embed.options import ComputeOptions, EmbedOptions
from curate.embed.planning.plan import Part, Plan, make_plan
from curate.embed.stage import prepared
from curate.errors import SourceError
from curate.models.model_set import ModelSet, ScorerSpec
from curate.models.scoring import Scoring
from curate.models.towers.flops import tower_flop
from curate.sources.images import Rejected
from curate.sources.parquet import Location, Source
from curate.storage.folder import LocalFolder
from schemas import tables

SAMPLE_IMAGES = 128
CPU_PROBE_IMAGES = 8
PROMPTS = 64


@dataclass(frozen=True)
class Rates:
    """Units per second on this machine, each measured alone."""

    read_images: float
    decode_images: float
    tower_images: float
    prompts: float


def dry_run(options: EmbedOptions, calibrate_sec: int | None = None) -> dict[str, Any]:
    """Settings, counts and costs of what `embed` would do; nothing is computed.

    With `calibrate_sec` the weights are loaded, and the time to expect is measured. Raises: as `embed`.
    """
    if calibrate_sec is None and options.precision == "auto":
        options = replace(options, precision="fp32")  # to measure it takes the weights, and no count depends on it
    with (
        prepared(options, here=calibrate_sec is not None) as (opened, scorers, compute, _),
        TemporaryDirectory() as folder,
    ):
        source = opened.with_rows(LocalFolder(Path(folder)))
        plan = make_plan(source, compute.part_images, compute.part_bytes)
        gflop = tower_gflop(scorers.model_set, list(scorers.specs))
        costs: dict[str, Any] = {"gflop": gflop, "total_tflop": total_tflop(plan, gflop)}
        if calibrate_sec is not None:
            costs["expected"] = expected_time(source, plan, scorers.on(compute.device), compute, calibrate_sec)
    settings = {
        "manifest": source.settings(),
        "split": source.split,
        "files": list(source.fingerprints()),
        "models": scorers.model_set.name,
        "scorers": scorers.names,
    }
    return settings | plan.counts() | costs


def tower_gflop(model_set: ModelSet, scorers: list[ScorerSpec]) -> dict[str, Any]:
    """Tower -> GFLOP of one image and of one prompt, by its architecture alone; None where that is not known."""
    found = {}
    for spec in model_set.towers_of(scorers):
        flop = tower_flop(spec, model_set.folder)
        found[spec.name] = flop and {"image": round(flop[0] / 1e9, 3), "prompt": round(flop[1] / 1e9, 3)}
    return found


def total_tflop(plan: Plan, gflop: dict[str, Any]) -> float | None:
    """TFLOP of the whole run; None when one of the towers is not known."""
    if None in gflop.values():
        return None
    each = [tower["image"] * plan.image_count + tower["prompt"] * len(plan.prompts) for tower in gflop.values()]
    return round(sum(each) / 1e3, 3)


def expected_time(
    source: Source, plan: Plan, scoring: Scoring, options: ComputeOptions, seconds: float
) -> dict[str, Any]:
    """Measure reading, decoding and the towers for about `seconds`, each alone, and say what the run will take.

    On a GPU the slowest sets the pace. On the CPU the same cores decode and compute, so their times add up.
    Raises: SourceError, ModelError.
    """
    batch = make_ready(scoring, options.device, options.batch_images, options.compiled)
    rates = measure(source, plan, scoring, options, batch, seconds)
    images, on_cpu = plan.image_count, options.device == "cpu"
    each = {"reading": rates.read_images, "decoding": rates.decode_images, "towers": rates.tower_images}
    slowest = min(each, key=lambda name: each[name])
    busy = 1 / rates.decode_images + 1 / rates.tower_images
    pace = min(rates.read_images, 1 / busy) if on_cpu else each[slowest]
    return {
        "device": options.device,
        "precision": options.precision,
        "decode": options.decode,
        "batch_images": batch,
        "decode_workers": options.decode_processes or options.decode_threads,
        "read_images_per_sec": round(rates.read_images, 1),
        "decode_images_per_sec": round(rates.decode_images, 1),
        "tower_images_per_sec": round(rates.tower_images, 1),
        "prompts_per_sec": round(rates.prompts, 1),
        "limited_by": slowest,
        "images_per_sec": round(pace, 1),
        "seconds": round(images / pace + len(plan.prompts) / rates.prompts, 3),  # a small source takes hundredths
    }


def measure(source: Source, plan: Plan, scoring: Scoring, options: ComputeOptions, batch: int, seconds: float) -> Rates:
    """A third of the time for decoding, half for the towers, the rest for prompts; reading is timed once."""
    located = sample_locations(plan.pairs, SAMPLE_IMAGES)
    start = time.perf_counter()
    encoded = list(source.image_bytes(located).values())
    read = len(encoded) / (time.perf_counter() - start)
    decoded = _decode_rate(plan.parts[0], encoded, scoring, options, seconds / 3)
    if not decoded:
        raise SourceError(f"none of the first {len(encoded)} images can be decoded; correct --source or the manifest")
    small = options.device == "cpu" and not options.compiled  # compiled towers fill every batch up
    images = min(batch, CPU_PROBE_IMAGES) if small else batch
    texts = list(itertools.islice(plan.prompts.values(), PROMPTS))
    return Rates(
        read,
        decoded,
        probe(scoring, options.device, images, seconds / 2),
        rate_of(lambda: len(texts) if scoring.embed_prompts(texts) else 0, seconds / 6),
    )


def sample_locations(pairs: pa.Table, images: int) -> list[Location]:
    """Where the images of the first pairs lie, at most so many."""
    columns = ("source_file", "source_row_group", "source_row")
    rows = zip(*(pairs[name].slice(0, images // 2).to_pylist() for name in columns), strict=True)
    return [Location(file, row_group, row, side) for file, row_group, row in rows for side in tables.IMAGE_SIDES]


def _decode_rate(
    part: Part, encoded: list[bytes | None], scoring: Scoring, options: ComputeOptions, seconds: float
) -> float:
    """Pictures per second through the pipeline's own decoder, as a run would set it up; 0 when none is one."""
    images = [EncodedImage(str(index), Location("", 0, index, 0), data) for index, data in enumerate(encoded)]
    with open_decode_pool(options, scoring, len(images)) as decoding:

        def once() -> int:
            (prepared,) = decoding.batches([Batch(part, images, True)])
            return sum(not isinstance(result, Rejected) for result in prepared.results)

        return rate_of(once, seconds)
