"""`curate embed` beside the peers, on one source with Pick-a-Pic's repetition: 16 pairs a prompt, images x1.88.

    python -m benchmarks.embed_peers [--prompts 4] [--rounds 3] [--clip-retrieval PYTHON]

clip-retrieval: its own inference over the same pairs as a webdataset, a sample for each side, the same ViT-B/32
of random weights. PYTHON is the interpreter of an environment that has it; none, and the row is not measured. Both
are timed from loaded weights to finished files.
Pair by pair: what PickScore's and HPSv2's pages show, with CLIP as a third model. For each pair its two pictures are
opened; PickScore takes both and the prompt in one forward pass, HPSv2 and CLIP take one picture and the prompt each
time. Weights are loaded once, which HPSv2's own function does not do. It runs over the first pairs and is
extrapolated.
"""

import argparse
import io
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import textwrap
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import webdataset
from PIL import Image

from benchmarks.embed import BATCH, ours
from benchmarks.photos import PAIRS_PER_PROMPT, photo, tournament_pairs, write_source
from benchmarks.random_towers import load, random_towers
from curate.pipeline import CORES, EmbedOptions
from curate.scoring import Scoring

# Runs in the peer's environment. It loads its model once before the clock, as its cache allows.
CLIP_RETRIEVAL = """
import sys, time
from importlib.metadata import version
from all_clip import load_clip
from clip_retrieval.clip_inference.worker import worker
tar, output, model, batch, workers = sys.argv[1:]
load_clip(clip_model=model, use_jit=False, warmup_batch_size=int(batch), clip_cache_path=None)
start = time.perf_counter()
worker([0], [tar], output, 1, input_format="webdataset", batch_size=int(batch), num_prepro_workers=int(workers),
       clip_model=model, use_jit=False)
print("PEER", version("clip-retrieval"), time.perf_counter() - start)
"""


def write_tar(path: Path, rows: list[dict[str, Any]]) -> None:
    """A sample for each side of each pair: its picture and the prompt."""
    with webdataset.TarWriter(str(path)) as tar:
        for index, row in enumerate(rows):
            for side in (0, 1):
                tar.write({"__key__": f"{index:06d}-{side}", "jpg": row[f"jpg_{side}"], "txt": row["caption"]})


def clip_retrieval(python: str, tar: Path, models: Path) -> tuple[str, float]:
    """Version and seconds of the peer's inference."""
    weights = models.parent / "clip" / "open_clip_model.safetensors"
    with tempfile.TemporaryDirectory() as output:
        model = f"open_clip:ViT-B-32/{weights}"
        command = [python, "-c", textwrap.dedent(CLIP_RETRIEVAL), str(tar), output, model, str(BATCH), str(CORES)]
        environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "WANDB_MODE": "disabled"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    said = [line.split() for line in done.stdout.splitlines() if line.startswith("PEER ")]
    if not said:
        raise SystemExit(f"clip-retrieval failed under {python}:\n{done.stderr[-3000:]}")
    return said[0][1], float(said[0][2])


def pair_by_pair(rows: list[dict[str, Any]], scoring: Scoring) -> None:
    """Three models over each pair, as their pages show."""
    pickscore, singles = scoring.towers["pickscore"], [scoring.towers["hpsv2"], scoring.towers["clip"]]
    for row in rows:
        pictures = [Image.open(io.BytesIO(row[f"jpg_{side}"])).convert("RGB") for side in (0, 1)]
        both = torch.stack([pickscore.preprocess(picture) for picture in pictures])
        _ = pickscore.embed_images(both) @ pickscore.embed_prompts([row["caption"]]).T * pickscore.scale
        for tower in singles:
            for picture in pictures:
                image = tower.embed_images(tower.preprocess(picture)[None])
                prompt = tower.embed_prompts([row["caption"]])
                _ = float((image * prompt).sum())


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each way in each round, for all pairs."""
    pairs = options.prompts * PAIRS_PER_PROMPT
    images = [photo(seed) for seed in range(options.prompts * (PAIRS_PER_PROMPT + 1))]
    rows = list(tournament_pairs(images, options.prompts))
    source = write_source(folder / "pairs.parquet", iter(rows))
    write_tar(folder / "pairs.tar", rows)
    models = random_towers(folder / "models", "ViT-B-32", "ViT-B-32")
    three = load(models, "cpu", "fp32")
    one = Scoring({"clip": three.towers["clip"]}, {"clip": three.heads["clip"]}, three.identity, three.models)
    how = EmbedOptions("cpu", "fp32", BATCH)
    found: dict[str, list[float]] = defaultdict(list)
    version = None
    for _ in range(options.rounds):
        found["ours, one tower"].append(seconds(lambda: ours(source, one, how)))
        if options.clip_retrieval:
            version, taken = clip_retrieval(options.clip_retrieval, folder / "pairs.tar", models)
            found["clip-retrieval"].append(taken)
        found["ours, three towers"].append(seconds(lambda: ours(source, three, how)))
        few = rows[: options.pairs]
        found["pair by pair"].append(seconds(lambda few=few: pair_by_pair(few, three)) * pairs / len(few))
    return {"pairs": pairs, "images": len(images), "clip_retrieval": version, "seconds": dict(found)}


def main() -> None:
    """Print a table, then one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=8, help="pairs that pair by pair really scores")
    parser.add_argument("--clip-retrieval", help="Python of an environment with clip-retrieval")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    try:
        found = measure(folder, options)
    finally:
        shutil.rmtree(folder)
    medians = {name: statistics.median(values) for name, values in found["seconds"].items()}
    print(f"{found['pairs']} pairs, {found['images']} unique images, {options.prompts} prompts; CPU, medians")
    for name, own in (("clip-retrieval", "ours, one tower"), ("pair by pair", "ours, three towers")):
        if name not in medians:
            print(f"{name:<28}not measured: give --clip-retrieval PYTHON")
            continue
        shown = f"{name} {found['clip_retrieval']}" if name == "clip-retrieval" else name
        times = medians[name] / medians[own]
        print(f"{own:<22}{medians[own]:>8.1f} s   {shown:<24}{medians[name]:>8.1f} s   x{times:.2f}")
    print(json.dumps({"benchmark": "embed_peers", **found, "medians": medians}))


if __name__ == "__main__":
    main()
