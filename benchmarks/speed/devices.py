"""What each choice for a device brings and costs: number format, compiler, channels last, batch, attention, decoding.

    python -m benchmarks.speed.devices                       # this GPU: ViT-L/14 and two ViT-H/14, some five minutes
    python -m benchmarks.speed.devices --device cpu          # ViT-B/32, few pictures
    python -m benchmarks.speed.devices --source 'train-*.parquet'    # decoding of real pictures in Pick-a-Pic's columns

Weights are random, pictures made in code unless --source names others. Rates are images per second: on a GPU of wall
time, on the CPU of CPU time of one thread, which other work on the machine does not change. Δ is beside float32,
Pillow and no compiler: of the towers' unit embeddings, max |1 - cosine|; of decoding, max |Δ| of the scores over their
standard deviation, and how much of the best 5.33 % stays.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.speed.photos import photo
from benchmarks.speed.random_towers import load, random_towers
from curate.embed.decode.decoders import DECODES, choose_decoder
from curate.embed.decode.steps import ForPillow, all_pixels
from curate.embed.decode.taken_apart import needed_side_px, taken_apart
from curate.embed.device.batch_size import compile_towers, find_batch, made_up, rate_of
from curate.embed.dry_run import sample_locations
from curate.models.batch_limit import free_memory, out_of_memory
from curate.models.scoring import EmbeddedPrompts, Scoring, stacked
from curate.models.towers.precision import choose_device, describe_device
from curate.sources.images import Rejected
from curate.sources.manifest import load_manifest
from curate.sources.opening import open_source

TOP = 0.0533
PROMPTS = [f"a photograph of a fox number {index}" for index in range(8)]


@dataclass(frozen=True)
class Bench:
    """What is measured on, how long each rate takes, and the set of models."""

    device: str
    models: Path
    seconds: float
    batch: int

    @property
    def on_gpu(self) -> bool:
        """Whether it is a CUDA device."""
        return self.device.startswith("cuda")

    def load(self, precision: str) -> Scoring:
        """The models in one number format, without what was there before."""
        free_memory()
        return load(self.models, self.device, precision)

    def rate(self, work: Callable[[], int]) -> float:
        """Units per second, of CPU time on the CPU."""
        if self.on_gpu:
            return rate_of(work, self.seconds)
        work()
        start, units = time.process_time(), 0
        while units == 0 or time.process_time() - start < self.seconds:
            units += work()
        return units / (time.process_time() - start)


def towers(bench: Bench) -> Iterator[dict[str, Any]]:
    """Each number format, with the compiler and without, and one choice changed at a time."""
    pictures = made_up(bench.load("fp32"), bench.device, bench.batch)[0]
    exact = bench.load("fp32").embed_images(pictures)
    for precision in ("fp32", "bf16", "fp16"):
        scoring = bench.load(precision)
        yield _tower_row(bench, precision, scoring, pictures, exact)
        if bench.on_gpu and precision == "bf16":
            for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH):
                with sdpa_kernel(backend):
                    yield _tower_row(bench, f"bf16, {backend.name.lower()}", scoring, pictures, exact)
            with contiguous(scoring):
                yield _tower_row(bench, "bf16, channels first", scoring, pictures, exact)
        if bench.on_gpu or precision == "fp32":
            start = time.perf_counter()
            compile_towers(scoring, bench.device, bench.batch)
            row = _tower_row(bench, f"{precision}, compiled", scoring, pictures, exact)
            yield row | {"compile_sec": round(time.perf_counter() - start, 1)}


def _tower_row(
    bench: Bench, name: str, scoring: Scoring, pictures: dict[str, torch.Tensor], exact: dict[str, torch.Tensor]
) -> dict[str, Any]:
    found = scoring.embed_images(pictures)
    delta = max(float((1 - (found[tower] * exact[tower]).sum(dim=1)).abs().max()) for tower in exact)
    return {"what": name, "images_per_sec": tower_rate(bench, scoring, pictures), "delta": delta}


def tower_rate(bench: Bench, scoring: Scoring, pictures: Any) -> float:
    """Pictures per second through every tower."""
    return bench.rate(lambda: len(next(iter(scoring.embed_images(pictures).values()))))


@contextmanager
def contiguous(scoring: Scoring) -> Iterator[None]:
    """Convolutions as they are without channels last."""
    convolutions = [
        module
        for tower in scoring.towers.values()
        for module in tower.model.modules()  # type: ignore[attr-defined]
        if isinstance(module, torch.nn.Conv2d)
    ]
    for module in convolutions:
        module.to(memory_format=torch.contiguous_format)
    yield
    for module in convolutions:
        module.to(memory_format=torch.channels_last)


def batches(bench: Bench) -> Iterator[dict[str, Any]]:
    """The rate by batch, until memory ends, and what `--batch auto` takes."""
    scoring = bench.load("bf16" if bench.on_gpu else "fp32")
    for images in (16, 32, 64, 128, 256, 512, 1024) if bench.on_gpu else (1, 8, 32):
        pictures = made_up(scoring, bench.device, images)[0]
        try:
            rate = tower_rate(bench, scoring, pictures)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            break
        yield {"what": f"batch {images}", "images_per_sec": rate}
    yield {"what": f"--batch auto takes {find_batch(scoring, bench.device)}"}


def decoding(bench: Bench, name: str, encoded: list[bytes | None]) -> Iterator[dict[str, Any]]:
    """Each way to decode and resize for every tower, on one thread, and its scores beside Pillow's."""
    scoring = bench.load("fp32")
    prompts = scoring.embed_prompts(PROMPTS)
    exact: dict[str, np.ndarray] = {}
    for how in DECODES if bench.on_gpu else DECODES[:2]:
        decode = choose_decoder(how, bench.device, max(map(needed_side_px, scoring.preprocessors.values())))
        preprocessors = {key: taken_apart(one) or ForPillow(one) for key, one in scoring.preprocessors.items()}

        def pixels(decode: Any = decode, preprocessors: Any = preprocessors) -> list[dict[str, torch.Tensor]]:
            kept = [one for one in decode(encoded) if not isinstance(one, Rejected)]
            return [{key: one.cpu() for key, one in all_pixels(item.image, preprocessors)} for item in kept]

        rate = bench.rate(partial(_count, pixels))
        scores = scores_of(scoring, pixels(), prompts, bench.batch)
        exact = exact or scores
        yield {"what": f"{name}, {how}", "images_per_sec": rate} | difference(scores, exact)


def _count(pixels: Callable[[], list[dict[str, torch.Tensor]]]) -> int:
    return len(pixels())


def scores_of(
    scoring: Scoring, pictures: list[dict[str, torch.Tensor]], prompts: dict[str, torch.Tensor], batch: int
) -> dict[str, np.ndarray]:
    """Scorer -> every picture with every prompt."""
    embedded = EmbeddedPrompts({str(row): row for row in range(len(PROMPTS))}, list(PROMPTS), prompts)
    matched = [(row, prompt_id) for row in range(len(pictures)) for prompt_id in embedded.rows]
    scoring.limit.size = batch
    return scoring.score_pictures(stacked(pictures), matched, embedded)[1]


def difference(scores: dict[str, np.ndarray], exact: dict[str, np.ndarray]) -> dict[str, float]:
    """The worst scorer's max |Δ| in standard deviations, and the least share of its best 5.33 % that stays."""
    deltas = [np.abs(scores[name] - exact[name]).max() / exact[name].std() for name in exact]
    shares = []
    for name in exact:
        count = max(1, round(TOP * len(exact[name])))
        best, kept = (set(np.argsort(-one[name], kind="stable")[:count].tolist()) for one in (exact, scores))
        shares.append(len(best & kept) / count)
    return {"delta": float(max(deltas)), "kept": min(shares)}


def pictures_of(source: str, images: int) -> list[bytes | None]:
    """Encoded images of a data set in Pick-a-Pic's columns."""
    from curate.embed.planning.plan import make_plan

    opened = open_source(load_manifest("pickapic_v2"), None, [source])
    located = dict.fromkeys(sample_locations(make_plan(opened, 1024, 10**9).pairs, 4 * images))
    unique = dict.fromkeys(opened.image_bytes(list(located)).values())
    return list(unique)[:images]


def printed(title: str, rows: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, each printed as it comes."""
    print(f"\n{title:<34}{'images/s':>10}{'Δ':>11}{'kept':>8}")
    found = []
    for row in rows:
        cells = [f"{row['what']:<34}", f"{row['images_per_sec']:>10.1f}" if "images_per_sec" in row else ""]
        cells += [f"{row['delta']:>11.2e}" if "delta" in row else "", f"{row['kept']:>8.1%}" if "kept" in row else ""]
        print("".join(cells) + (f"   compiled in {row['compile_sec']} s" if "compile_sec" in row else ""), flush=True)
        found.append(row)
    return found


def main() -> None:
    """Print tables, then one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--source", help="Parquet in Pick-a-Pic's columns, instead of made pictures")
    parser.add_argument("--images", type=int, help="pictures that are decoded  [64 of each size, 16 on the CPU]")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each rate")
    parser.add_argument("--only", choices=["towers", "batches", "decoding"])
    options = parser.parse_args()
    device = choose_device(options.device)
    on_gpu = device.startswith("cuda")
    images = options.images or (64 if on_gpu else 16)
    if not on_gpu:
        torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        models = (
            random_towers(Path(folder), "ViT-L-14", "ViT-H-14") if on_gpu else random_towers(Path(folder), "ViT-B-32")
        )
        bench = Bench(device, models, options.seconds, 64 if on_gpu else 8)
        print(describe_device(device, "bf16" if on_gpu else "fp32"))
        report: dict[str, Any] = {"benchmark": "devices", "device": describe_device(device, "any")}
        if options.only in (None, "towers"):
            report["towers"] = printed("towers", towers(bench))
        if options.only in (None, "batches"):
            report["batches"] = printed("batches", batches(bench))
        if options.only in (None, "decoding"):
            sets: dict[str, list[bytes | None]] = {}
            if options.source:
                sets["real"] = pictures_of(options.source, images)
            else:
                sets = {f"{side}²": [photo(seed, side) for seed in range(images)] for side in (512, 1024)}
            report["decoding"] = [
                row for name, encoded in sets.items() for row in printed("decoding", decoding(bench, name, encoded))
            ]
    print(json.dumps(report))


if __name__ == "__main__":
    main()
