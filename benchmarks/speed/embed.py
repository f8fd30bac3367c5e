"""How much of a device's rate `curate embed` reaches, and what one bad image in a hundred costs it.

    python -m benchmarks.speed.embed [--images 256] [--rounds 3]

CPU: a ViT-B/32 of random weights over unique 512 squared JPEGs. Ours is the whole of `curate embed` but the loading
of weights: plan, reading Parquet, decoding, towers, tables on disk. The yardstick is what nobody can leave out:
decode and resize in a pool of threads, one batch ahead, and the forward pass, from bytes in memory, keeping nothing.
On a GPU, with towers of full size: `python -m benchmarks.gpu --only embed-speed`.
Ours and the yardstick alternate; medians. CPU seconds beside wall time, since other work on a machine changes wall
time only.
"""

import argparse
import io
import json
import shutil
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from benchmarks.speed.cheap import cheap_scoring
from benchmarks.speed.photos import photo, unique_pairs, write_source
from benchmarks.speed.random_towers import load, random_towers
from curate.embed.options import CORES, ComputeOptions
from curate.embed.stage import embed_source
from curate.models.scoring import Scoring
from curate.sources.manifest import load_manifest
from curate.sources.opening import open_source
from curate.storage.run import Run
from curate.storage.threads import batched

BATCH = 64
BAD_IMAGES = 400  # decoding alone: no tower hides what they cost


def clock(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds of one call; the CPU seconds are this process's, all threads."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def interleaved(rounds: int, ways: dict[str, Callable[[], object]]) -> dict[str, list[tuple[float, float]]]:
    """(wall, CPU) seconds of each way in each round; the order turns, so that none is always first."""
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for index in range(rounds):
        for name, work in list(ways.items())[:: 1 if index % 2 == 0 else -1]:
            found[name].append(clock(work))
    return found


def ours(source: Path, scoring: Scoring, options: ComputeOptions) -> dict[str, Any]:
    """`curate embed` with loaded towers, into a new run directory."""
    with tempfile.TemporaryDirectory() as folder:
        return embed_source(
            Run(Path(folder)), open_source(load_manifest("pickapic_v2"), None, [str(source)]), scoring, options
        )


def bare(images: list[bytes], scoring: Scoring) -> None:
    """Decode, resize, forward: nothing else, with the pool one batch ahead of the model."""
    tower: Any = scoring.towers["clip"]

    def prepared(data: bytes) -> torch.Tensor:
        return tower.preprocess(Image.open(io.BytesIO(data)).convert("RGB"))

    with ThreadPoolExecutor(CORES) as pool, torch.inference_mode():
        started: Iterator[list[Future[torch.Tensor]]] = (
            [pool.submit(prepared, data) for data in batch] for batch in batched(images, BATCH)
        )
        following = next(started, None)
        while following is not None:
            current, following = following, next(started, None)
            tower.model.encode_image(torch.stack([future.result() for future in current]))


def cpu_row(folder: Path, images: list[bytes], rounds: int) -> dict[str, Any]:
    """Ours against the bare loop, on this machine's cores."""
    scoring = load(random_towers(folder / "cpu", "ViT-B-32"), "cpu", "fp32")
    source = write_source(folder / "unique.parquet", unique_pairs(images, 2))
    options = ComputeOptions("cpu", "fp32", BATCH)
    bare(images[:BATCH], scoring)
    found = interleaved(rounds, {"ours": lambda: ours(source, scoring, options), "bare": lambda: bare(images, scoring)})
    return _row("CPU, ViT-B/32", len(images), found, "bare")


def bad_row(folder: Path, rounds: int) -> dict[str, Any]:
    """The pipeline with a tower that costs nothing, over sound images and with one in a hundred cut short."""
    sound = [photo(seed) for seed in range(BAD_IMAGES)]
    some = [data[:300] if index % 100 == 37 else data for index, data in enumerate(sound)]
    files = {
        name: write_source(folder / f"{name}.parquet", unique_pairs(images, 2))
        for name, images in {"sound": sound, "bad": some}.items()
    }
    options = ComputeOptions("cpu", "fp32", BATCH)
    ways: dict[str, Callable[[], object]] = {
        name: partial(ours, path, cheap_scoring(), options) for name, path in files.items()
    }
    found = interleaved(2 * rounds + 1, ways)
    return _row(
        "one bad image in 100, decoding alone", BAD_IMAGES, {"ours": found["bad"], "sound": found["sound"]}, "sound"
    )


def _row(name: str, images: int, found: dict[str, list[tuple[float, float]]], yardstick: str) -> dict[str, Any]:
    medians = {way: [statistics.median(column) for column in zip(*times, strict=True)] for way, times in found.items()}
    (wall, cpu), (bare_wall, bare_cpu) = medians["ours"], medians[yardstick]
    return {
        "name": name,
        "images": images,
        "yardstick": yardstick,
        "images_per_sec": images / wall,
        "yardstick_images_per_sec": images / bare_wall,
        "of_yardstick": bare_wall / wall,
        "of_yardstick_by_cpu_time": bare_cpu / cpu,
        "seconds": found,
    }


def main() -> None:
    """Print a table, then one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    count = options.images
    with ThreadPoolExecutor(CORES) as pool:
        images = list(pool.map(photo, range(count)))
    print(f"{count} unique 512x512 JPEGs of {sum(map(len, images)) / count / 1000:.0f} kB; medians of {options.rounds}")
    folder = Path(tempfile.mkdtemp())
    try:
        rows = [cpu_row(folder, images, options.rounds), bad_row(folder, options.rounds)]
    finally:
        shutil.rmtree(folder)
    print(f"{'curate embed':<44}{'images/s':>9}{'yardstick':>24}{'of it':>7}{'by CPU time':>12}")
    for row in rows:
        yardstick = f"{row['yardstick_images_per_sec']:.1f} {row['yardstick']}"
        print(
            f"{row['name']:<44}{row['images_per_sec']:>9.1f}{yardstick:>24}{row['of_yardstick']:>7.3f}"
            f"{row['of_yardstick_by_cpu_time']:>12.3f}"
        )
    print(json.dumps({"benchmark": "embed", "threads": torch.get_num_threads(), "rows": rows}))


if __name__ == "__main__":
    main()
