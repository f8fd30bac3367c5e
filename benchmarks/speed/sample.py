"""`train sample` beside a bare diffusers pipeline that draws the same pictures in the same batches.

    python -m benchmarks.speed.sample [--prompts 48] [--batch 8] [--steps 10] [--rounds 5]

Both draw with one small Stable Diffusion of random weights; both times hold drawing and turning the result into PIL
pictures, ours also writing PNGs, uids, parts and what else there is. Opening the model is in neither. The rounds
alternate, and each side's median counts; the ratio of processor time is what counts where other work shares the cores.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline

from benchmarks.speed.small_sd import write_model
from train.sample import sampling as sample_module
from train.sample.generate import GenerationSettings, open_generator
from train.sample.picture_files import Model
from train.sample.prompts import Prompt
from train.sample.sampling import Sampling, draw_pairs
from train.terminal import silence_libraries

GUIDANCE = 7.5
LEAST_RATIO = 0.95


def seconds(work: Callable[[], Any]) -> tuple[float, float]:
    """Wall time and processor time of one call."""
    start, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start, time.process_time() - cpu


def draw_bare(pipeline: Any, prompts: list[str], batch: int, steps: int) -> None:
    """What a user writes: a batch at a time, PIL pictures out."""
    for start in range(0, len(prompts), batch):
        chunk = prompts[start : start + batch]
        generators = [torch.Generator().manual_seed(start + place) for place in range(len(chunk))]
        pipeline(chunk, num_inference_steps=steps, guidance_scale=GUIDANCE, generator=generators)


def ignore(done: int, total: int) -> None:
    """Progress that nobody watches."""


def main() -> None:
    """Prints a table, then one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("prompts", 48), ("batch", 8), ("steps", 10), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    silence_libraries()
    prompts = [f"picture {chr(97 + i % 26)} {chr(97 + i // 26)}" for i in range(given.prompts)]
    times: dict[str, list[tuple[float, float]]] = {"bare": [], "train sample": []}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_model(folder / "model")
        bare = StableDiffusionPipeline.from_pretrained(folder / "model")
        bare.set_progress_bar_config(disable=True)
        pipeline = open_generator(str(folder / "model"), None)
        sample_module.open_generator = lambda *_: pipeline  # opened once: neither time holds it
        models = (Model("a", str(folder / "model")), Model("b", str(folder / "model")))
        sampling = Sampling(
            models, list(map(Prompt, prompts)), 1, GenerationSettings(given.steps, GUIDANCE), given.batch, 0
        )
        draw_bare(bare, prompts[: given.batch], given.batch, given.steps)  # warm
        for number in range(given.rounds):
            times["bare"].append(seconds(lambda: draw_bare(bare, prompts * 2, given.batch, given.steps)))
            times["train sample"].append(seconds(partial(draw_pairs, sampling, folder / f"out-{number}", ignore)))
    images = 2 * given.prompts
    rates = {name: images / statistics.median(wall for wall, _ in found) for name, found in times.items()}
    cpu = {name: images / statistics.median(cpu for _, cpu in found) for name, found in times.items()}
    ratios = {"ratio": rates["train sample"] / rates["bare"], "cpu_ratio": cpu["train sample"] / cpu["bare"]}
    for name, rate in rates.items():
        print(f"{name:<16}{rate:>8.2f} images/s  {cpu[name]:>8.2f} images per second of processor time")
    for name, ratio in ratios.items():
        print(f"{name:<16}{ratio:>8.3f}   at least {LEAST_RATIO}")
    print(json.dumps({**vars(given), "images_per_sec": rates, **ratios, "seconds": times}))


if __name__ == "__main__":
    main()
