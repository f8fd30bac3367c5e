"""`train run` beside the peers' Diffusion-DPO scripts: pairs a second, and the same losses.

    python -m benchmarks.speed.train [--diffusers train_diffusion_dpo.py] [--salesforce train.py]
        [--steps 12] [--batch 2] [--compile]

The peers are taken by path: diffusers' examples/research_projects/diffusion_dpo/train_diffusion_dpo.py (LoRA) and
SalesforceAIResearch/DiffusionDPO's train.py (full fine-tune). peer_run.py names what it takes to start them. A
small Stable Diffusion with random weights has SD1.5's proportion of VAE to U-Net work; weights, pairs, batch,
dtype, optimizer and threads are the same for all. Speeds are pairs by second of CPU time, one thread, the median step:
a machine that others use does not change them. The fastest step by the clock on the wall is in the JSON. Without a
peer's path its rows say "not measured". On a GPU, at the published sizes: `python -m benchmarks.gpu`.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.speed.small_sd import LEARNING_RATE, RANK, RESOLUTION_PX, write_model, write_pairs
from train.config import load_recipe
from train.data.latent_cache.cache import LatentCache, open_cache
from train.data.latents import OnTheFly
from train.data.pairs import PairSet, read_pairs
from train.data.random_draws import PairOrder, draw
from train.model.families import DiffusionModel, load
from train.model.lora import add_lora, trainable
from train.terminal import Reporter

WARM_STEPS = 2  # not timed
CURVE_STEPS = 6
NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Workshop:
    """A folder with the model and the pairs, as ours and the peers read them, and how long to train."""

    root: Path
    steps: int
    batch: int
    compiled: bool = False

    @property
    def model(self) -> Path:
        return self.root / "model"

    @property
    def shards(self) -> Path:
        return self.root / "shards"

    def recipe(self, steps: int, *, lora: bool) -> Path:
        path = self.root / f"{'lora' if lora else 'full'}-{steps}.toml"
        path.write_text(
            f"[data]\nresolution_px = {RESOLUTION_PX}\nflips = false\nempty_prompt_probability = 0.0\n"
            "[objective]\nbeta = 5000.0\n"
            f"[optimizer]\nlearning_rate = {LEARNING_RATE}\nwarmup_steps = 0\nfused = true\n"
            f"[run]\nsteps = {steps}\nbatch_pairs = {self.batch}\nmicro_batch_pairs = {self.batch}\n"
            f"checkpoint_every_steps = {steps}\ncompile = {str(self.compiled).lower()}\n"
            + (f"[lora]\nrank = {RANK}\n" if lora else "")
        )
        return path


def ours(shop: Workshop, steps: int, *, lora: bool) -> dict[str, Any]:
    """Our run in a process of its own: losses and times by step."""
    output = shop.root / f"ours-{'lora' if lora else 'full'}-{steps}"
    record = output.with_suffix(".jsonl")
    command = [
        sys.executable,
        "-m",
        "benchmarks.speed.own_run",
        record,
        "run",
        "--shards",
        shop.shards,
        "--model",
        shop.model,
    ]
    command += ["--preset", "demo", "--config", shop.recipe(steps, lora=lora), "--output", output, "--json"]
    subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True)
    records = [json.loads(line) for line in record.read_text().splitlines()]
    waited = statistics.mean(one["data_wait_share"] for one in records[WARM_STEPS:])
    return by_step(records, "loss", shop.batch) | {"data_wait_share": waited}


def by_step(records: list[dict[str, Any]], loss: str, batch: int) -> dict[str, Any]:
    """Losses, and pairs a second of wall clock and of CPU time for each step after the first ones."""
    kept = [one for one in records if loss in one]
    spans = {
        clock: [later[clock] - earlier[clock] for earlier, later in itertools.pairwise(kept[WARM_STEPS - 1 :])]
        for clock in ("time", "cpu")
    }
    memory = max((one.get("peak_memory_bytes", 0) for one in kept), default=0)
    speeds = {c: [batch / span for span in spans[c]] for c in spans}
    return {"losses": [one[loss] for one in kept], "peak_memory_bytes": memory} | speeds


def peer(
    shop: Workshop,
    script: Path,
    steps: int,
    *,
    lora: bool,
    draws: Path | None = None,
    options: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """The peer's run: `lora` is diffusers' script, otherwise Salesforce's. options: more of the script's own."""
    record = shop.root / f"peer-{'lora' if lora else 'full'}-{steps}.jsonl"
    data = shop.root / ("pickapic-curve" if draws else "pickapic")
    all_options: dict[str, Any] = {
        "pretrained_model_name_or_path": shop.model,
        "dataset_name": data,
        "cache_dir": shop.root / "datasets",
        "output_dir": record.with_suffix(""),
        "resolution": RESOLUTION_PX,
        "train_batch_size": shop.batch,
        "gradient_accumulation_steps": 1,
        "max_train_steps": steps,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler": "constant",
        "lr_warmup_steps": 0,
        "checkpointing_steps": 10**6,
        "mixed_precision": "no",
        "seed": 0,
    }
    if lora:
        all_options |= {"rank": RANK, "beta_dpo": 2500, "dataset_split_name": "train"}
    else:
        all_options |= {"beta_dpo": 5000, "proportion_empty_prompts": 0, "caption_column": "caption"}
    every = (all_options | dict(options)).items()
    flags = [part for name, value in every for part in (f"--{name}", *([] if value is True else [str(value)]))]
    command = [sys.executable, "-m", "benchmarks.speed.peer_run", script, record, *([draws] if draws else []), "--"]
    done = subprocess.run([str(part) for part in [*command, *flags, "--no_hflip"]], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{script} failed:\n{done.stderr[-3000:]}")
    records = [json.loads(line) for line in record.read_text().splitlines()]
    return by_step(records, "loss" if lora else "train_loss", shop.batch)


def write_draws(shop: Workshop, model: DiffusionModel) -> Path:
    """What our run draws in its first steps, in the order that the peers take it, and its first LoRA weights."""
    recipe, pairs = load_recipe("demo", shop.recipe(CURVE_STEPS, lora=True)), read_pairs(shop.shards)
    order, shape = PairOrder(recipe.run.seed, len(pairs.pairs)), model.latent_shape(RESOLUTION_PX)
    taken = [
        [
            draw(
                0,
                step,
                place,
                pair=order.pair_at(step * shop.batch + place),
                timesteps=1000,
                latent_shape=shape,
                data=recipe.data,
            )
            for place in range(shop.batch)
        ]
        for step in range(CURVE_STEPS)
    ]
    write_pairs(shop.root / "pickapic-curve", None, order=[one.pair for step in taken for one in step])
    assert recipe.lora is not None
    add_lora(model.denoiser, recipe.lora, recipe.run.seed)
    path = shop.root / "draws.npz"
    arrays: dict[str, Any] = dict(
        noise=np.array([[one.noise for one in step] for step in taken]),
        timesteps=np.array([[one.timestep for one in step] for step in taken]),
        posterior_noise=np.array([[one.posterior_noise[side] for side in (0, 1) for one in step] for step in taken]),
        **{f"lora/{name}": value.detach().numpy() for name, value in trainable(model.denoiser).items()},
    )
    np.savez(path, **arrays)
    return path


@torch.no_grad()
def work_of(model: DiffusionModel) -> tuple[float, float]:
    """TFLOP of the VAE's encoder and of one U-Net forward, of one image."""
    found = []
    for work in (
        lambda: model.vae.encode(torch.zeros(1, 3, RESOLUTION_PX, RESOLUTION_PX)),
        lambda: model.denoiser(
            torch.zeros(1, *model.latent_shape(RESOLUTION_PX)),
            1,
            torch.zeros(1, 77, model.denoiser.config["cross_attention_dim"]),
        ),
    ):
        with FlopCounterMode(display=False) as counter:
            work()
        found.append(counter.get_total_flops() / 1e12)
    return found[0], found[1]


def opened(folder: Path, model: DiffusionModel, pairs: PairSet) -> LatentCache:
    """The cache of a run on the CPU."""
    accelerator, reporter = Accelerator(cpu=True), Reporter(main=False)
    return open_cache(folder, model, pairs, accelerator, reporter, resolution_px=RESOLUTION_PX, flips=False)


def cost_of_cache(shop: Workshop, model: DiffusionModel) -> float:
    """CPU time to fill the cache over what one epoch of encoding as it is needed takes; median of three."""
    pairs = read_pairs(shop.shards)
    direct, ratios = OnTheFly(model, pairs, RESOLUTION_PX), []
    noise = torch.zeros(2, *model.latent_shape(RESOLUTION_PX))
    for number in range(3):
        began = time.process_time()
        for pair in pairs.pairs:
            direct.encoded([pair.preferred, pair.rejected], noise, [False, False], [pair.prompt] * 2)
        between = time.process_time()
        opened(shop.root / f"cache-{number}", model, pairs)
        ratios.append((time.process_time() - between) / (between - began))
    return statistics.median(ratios)


def compare(shop: Workshop, script: Path | None, draws: Path, *, lora: bool, rounds: int) -> dict[str, Any]:
    """Ours and the peer's, alternating, and their losses on the same draws."""
    mine = [ours(shop, shop.steps, lora=lora)]
    if script is None:
        return {"ours": max(mine[0]["cpu"]), "peer": None, "data_wait_share": mine[0]["data_wait_share"]}
    theirs = [peer(shop, script, shop.steps, lora=lora)]
    for number in range(1, rounds):
        mine.append(ours(shop, shop.steps + number, lora=lora))
        theirs.append(peer(shop, script, shop.steps + number, lora=lora))
    curves = (
        ours(shop, CURVE_STEPS, lora=lora)["losses"],
        peer(shop, script, CURVE_STEPS, lora=lora, draws=draws)["losses"],
    )
    cpu, wall = ([[speed for one in side for speed in one[c]] for side in (mine, theirs)] for c in ("cpu", "time"))
    middle = [statistics.median(side) for side in cpu]
    return {
        "ours": middle[0],
        "peer": middle[1],
        "ratio": middle[0] / middle[1],
        "wall_clock": {"ours": max(wall[0]), "peer": max(wall[1]), "ratio": max(wall[0]) / max(wall[1])},
        "data_wait_share": statistics.median(one["data_wait_share"] for one in mine),
        "losses": {"ours": curves[0], "peer": curves[1]},
        "largest_difference": max(abs(a - b) for a, b in zip(*curves, strict=True)),
    }


def main() -> None:
    """Print a table, then one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--diffusers", type=Path)
    parser.add_argument("--salesforce", type=Path)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--compile", action="store_true", help="our denoiser compiled (run.compile), the peers as they are"
    )
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    with tempfile.TemporaryDirectory() as folder:
        shop = Workshop(Path(folder), options.steps, options.batch, options.compile)
        write_model(shop.model)
        write_pairs(shop.root / "pickapic", shop.shards)
        model = load(str(shop.model))
        vae, unet = work_of(model)
        cache = cost_of_cache(shop, model)
        draws = write_draws(shop, model)
        cases = {
            "LoRA, small SD on CPU": compare(shop, options.diffusers, draws, lora=True, rounds=options.rounds),
            "full fine-tune, small SD on CPU": compare(
                shop, options.salesforce, draws, lora=False, rounds=options.rounds
            ),
        }
    print(f"VAE encode / U-Net forward of one image: {vae / unet:.2f} of the work (SD1.5 at 512: 1.40)")
    print(f"{'case':<46}{'ours':>14}{'peer':>14}{'ratio':>8}{'loss differs by':>17}{'data wait':>11}")
    for name, case in cases.items():
        known = case["peer"] is not None
        theirs = f"{case['peer']:.2f} pairs/s" if known else NOT_MEASURED
        ratio, off = (f"{case['ratio']:.2f}x", f"{case['largest_difference']:.1e}") if known else ("", "")
        waited = f"{100 * case['data_wait_share']:.2f} %"
        print(f"{name:<46}{case['ours']:>6.2f} pairs/s{theirs:>14}{ratio:>8}{off:>17}{waited:>11}")
    print(f"{'latent cache / one epoch of encoding':<46}{cache:>13.2f}x")
    print(
        json.dumps(
            {
                "benchmark": "train",
                "compiled": options.compile,
                "work": {"vae_tflop": vae, "unet_tflop": unet},
                "cache_cost": cache,
                "cases": cases,
            }
        )
    )


if __name__ == "__main__":
    main()
