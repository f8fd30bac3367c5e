"""`curate embed` with random towers of the published sizes: what it reaches of the towers alone, and half precision."""

import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import open_clip
import torch

from benchmarks.gpu.parts.ceilings import ceilings
from benchmarks.gpu.plan import Bench, Row, goal
from benchmarks.speed.photos import photo, unique_pairs, write_source
from benchmarks.speed.random_towers import load, random_towers
from curate.embed.decode.pool import default_decode_processes
from curate.embed.decode.reading import cut_batches, read_groups
from curate.embed.device.batch_size import find_batch, made_up, probe, rate_of
from curate.embed.device.pipeline import open_decode_pool
from curate.embed.device.precision import choose_precision
from curate.embed.device.reports import DeviceReport
from curate.embed.engines import Report, T, Work
from curate.embed.options import CORES, ComputeOptions
from curate.embed.parity import measure_parity
from curate.embed.planning.plan import make_plan
from curate.embed.stage import embed_source
from curate.models.model_set import load_model_set
from curate.models.scoring import Scoring, load_scoring
from curate.models.towers.precision import autocast, memory_format
from curate.sources.manifest import load_manifest
from curate.sources.opening import open_source
from curate.sources.parquet import Source
from curate.storage.run import Run

SETS = {"ViT-L/14 + ViT-H/14": ("clip", "pickscore"), "and HPSv2's ViT-H/14": ("clip", "pickscore", "hpsv2")}
ARCHITECTURES = ("ViT-L-14", "ViT-H-14")
REHEARSED = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 224, "layers": 2, "width": 64, "patch_size": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}
SIDES_PX = (64, 512, 1024)  # of the pictures: at 64 px decoding costs next to nothing
IMAGES = {64: 6144, 512: 4096, 1024: 2048}
DIFFERENT = 64  # pictures of each size, under many names
MOST_AT_ONCE = 256  # so that there are batches enough to tell a rate by
WARM = 4  # a run's first part in so many does not count: processes that decode are starting
OF_TOWERS = 0.95
PARITY_IMAGES = 256


@dataclass
class Watched:
    """An engine: this process alone, with a note of when each batch was done."""

    device: str
    seen: list[tuple[float, int]] = field(default_factory=list)

    def run(self, work: Work[T], tasks: Sequence[T], report: Report) -> None:
        """As `Engine.run`."""

        def noted(message: object) -> None:
            if isinstance(message, DeviceReport) and message.images:
                self.seen.append((time.perf_counter(), message.images))
            report(message)

        work(self.device, iter(tasks), noted)


def measure(bench: Bench) -> Iterator[Row]:
    """The towers alone, then pixels that are on the device, then pictures of each size; last, half precision."""
    yield from ceilings(bench)
    models = random_towers(bench.folder, *architectures(bench), device=bench.device)
    sources = {side: pictures(bench, side) for side in SIDES_PX}
    named = load_model_set(str(models))
    precision = choose_precision("auto", named, list(named.scorers.values()), (bench.device,))
    every = load(models, bench.device, precision)
    for name, scorers in SETS.items():
        yield from rates(bench, name, only(every, scorers), precision, sources)
    del every
    yield from parity(bench, models)


def architectures(bench: Bench) -> tuple[str, str]:
    """CLIP's, and that of the others; of a rehearsal a tiny one, which open_clip is told of."""
    if not bench.rehearse:
        return ARCHITECTURES
    path = bench.folder / "tiny-ViT.json"
    path.write_text(json.dumps(REHEARSED))
    open_clip.add_model_config(path)
    return path.stem, path.stem


def only(every: Scoring, scorers: Sequence[str]) -> Scoring:
    """Some of the towers, which are loaded already."""
    towers = {name: every.towers[name] for name in scorers}
    return Scoring(towers, {name: every.heads[name] for name in scorers}, every.identity, every.models)


def rates(bench: Bench, name: str, scoring: Scoring, precision: str, sources: dict[int, Source]) -> Iterator[Row]:
    """Pictures a second of the towers alone; of what all else reaches, as its share of that."""
    batch = 4 if bench.rehearse else min(MOST_AT_ONCE, find_batch(scoring, bench.device))
    seconds = 0.1 if bench.rehearse else 2.0
    alone = towers_alone(bench, scoring, batch, precision, seconds)
    yield Row(f"{name}, {precision}: the towers alone, batches of {batch}", alone, "images/s")
    there = probe(scoring, bench.device, batch, seconds)
    yield Row(
        f"{name}: scored from the device's memory, of the towers alone", there / alone, at_least=goal(bench, OF_TOWERS)
    )
    options = compute_options(bench, precision, batch)
    for side, source in sources.items():
        found = whole(bench, scoring, source, options, f"{name}-{side}")
        yield Row(f"{name}: curate embed, JPEGs of {side} px", found, "images/s")
        decoded = decoding_alone(scoring, source, options)
        yield Row(f"{name}: reading and decoding alone, JPEGs of {side} px, {CORES} cores", decoded, "images/s")
        what = f"{name}: curate embed at {side} px, of the slower of the two"
        yield Row(what, found / min(alone, decoded), at_least=goal(bench, OF_TOWERS))


def compute_options(bench: Bench, precision: str, batch: int | None, decode: str = "pillow") -> ComputeOptions:
    """As `curate embed` chooses them for one device."""
    processes = default_decode_processes(bench.device, decode)
    return ComputeOptions(bench.device, precision, batch, decode=decode, decode_processes=processes)


def towers_alone(bench: Bench, scoring: Scoring, batch: int, precision: str, seconds: float) -> float:
    """The forward passes of the pictures' encoders, on pixels that are there; nothing leaves the device."""
    pictures = made_up(scoring, bench.device, batch)[0]
    layout = memory_format(bench.device, precision)
    pixels = {key: values.to(memory_format=layout) for key, values in pictures.items()}

    def forward() -> int:
        for tower in scoring.towers.values():
            tower.image_features(pixels[tower.preprocessing])  # type: ignore[attr-defined]
        synchronize(bench.device)
        return batch

    with torch.inference_mode(), autocast(bench.device, precision):
        return rate_of(forward, seconds)


def whole(bench: Bench, scoring: Scoring, source: Source, options: ComputeOptions, name: str) -> float:
    """Pictures a second of `curate embed` with loaded towers, once it is under way."""
    watched = Watched(bench.device)
    embed_source(Run(bench.folder / name.replace(" ", "-").replace("/", "")), source, scoring, options, watched)
    return under_way(watched.seen)


def decoding_alone(scoring: Scoring, source: Source, options: ComputeOptions) -> float:
    """Pictures a second from the file to pixels, by the same processes, with nobody who takes them."""
    batch = options.batch_images or 1
    seen: list[tuple[float, int]] = []
    with open_decode_pool(options, scoring, batch, pinned=options.device.startswith("cuda")) as pool:
        parts = make_plan(source, options.part_images, options.part_bytes).parts
        for one in pool.batches(cut_batches(read_groups(source, parts), batch)):
            seen.append((time.perf_counter(), len(one.places)))
    return under_way(seen)


def under_way(seen: list[tuple[float, int]]) -> float:
    """Units a second after the first quarter. seen: when each batch was done, and of how many."""
    rest = seen[len(seen) // WARM :]
    return sum(count for _, count in rest[1:]) / (rest[-1][0] - rest[0][0])


def parity(bench: Bench, models: Path) -> Iterator[Row]:
    """What `--parity` says of each half precision: the largest Δ and the mean one, in standard deviations."""
    chosen = load_model_set(str(models))
    specs = chosen.choose(list(SETS["ViT-L/14 + ViT-H/14"]))
    images = 8 if bench.rehearse else PARITY_IMAGES
    source = opened(bench.folder / "parity.parquet", [photo(seed) for seed in range(images)])
    for precision in ("fp16", "bf16"):
        run = Run(bench.folder / f"parity-{precision}")
        options = compute_options(bench, precision, 4 if bench.rehearse else 64)
        embed_source(run, source, load_scoring(chosen, specs, bench.device, precision), options)
        report = measure_parity(run, source, chosen, specs, options, images)
        for scorer, delta in report["scorers"].items():
            note = f"mean {delta['mean']:.2e}, of scores that spread by {delta['spread']:.2e}"
            yield Row(f"--parity {precision}, {scorer}: largest Δ of a score", delta["max"], note=note)
        yield Row(f"--parity {precision}: of the best 5.33 % kept", report["top"]["kept"] / report["top"]["pairs"])


def pictures(bench: Bench, side_px: int) -> Source:
    """JPEGs of one size, two to a pair."""
    images = 12 if bench.rehearse else IMAGES[side_px]
    with ThreadPoolExecutor(CORES) as pool:
        found = list(pool.map(lambda seed: photo(seed, side_px), range(min(images, DIFFERENT))))
    every = [found[index % len(found)] for index in range(images)]
    return opened(bench.folder / f"pictures-{side_px}.parquet", every)


def opened(path: Path, images: list[bytes]) -> Source:
    """Pairs of them as Pick-a-Pic has its."""
    write_source(path, unique_pairs(images, 2))
    return open_source(load_manifest("pickapic_v2"), None, [str(path)])


def synchronize(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
