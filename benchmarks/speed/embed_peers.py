"""`curate embed` beside the peers, on one source with Pick-a-Pic's repetition: 16 pairs a prompt, images x1.88.

    python -m benchmarks.speed.embed_peers [--prompts 4] [--rounds 3] [--clip-retrieval PYTHON]

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
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
import webdataset
from PIL import Image

from benchmarks.speed.embed import BATCH, clock, ours
from benchmarks.speed.photos import PAIRS_PER_PROMPT, photo, tournament_pairs, write_source
from benchmarks.speed.random_towers import load, random_towers
from curate.embed.options import CORES, ComputeOptions
from curate.models.scoring import Scoring

# Runs in the peer's environment. Its model is loaded before the clock, as its cache allows; its logger, which starts
# an interpreter of its own, is left out.
CLIP_RETRIEVAL = """
import gc, resource, sys, time
from importlib.metadata import version
from all_clip import load_clip
from clip_retrieval.clip_inference import worker as peer
output, model, batch, workers, *tars = sys.argv[1:]

def cpu():
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime

class NoLogger:
    def __init__(self, **_): pass
    def __call__(self, _): pass
    start = end = lambda self: None

peer.LoggerWriter = NoLogger
load_clip(clip_model=model, use_jit=False, warmup_batch_size=int(batch), clip_cache_path=None)
start, used = time.perf_counter(), cpu()
peer.worker([0], tars, output, 1, input_format="webdataset", batch_size=int(batch), num_prepro_workers=int(workers),
       clip_model=model, use_jit=False)
taken = time.perf_counter() - start
gc.collect()
print("PEER", version("clip-retrieval"), taken, cpu() - used)
"""


def write_tars(folder: Path, rows: list[dict[str, Any]]) -> list[Path]:
    """A sample for each side of each pair, its picture and the prompt; a tar for each of the peer's workers."""
    paths = [folder / f"pairs-{index}.tar" for index in range(CORES)]
    for path in paths:
        with webdataset.TarWriter(str(path)) as tar:
            for index in range(paths.index(path), len(rows), CORES):
                row = rows[index]
                for side in (0, 1):
                    tar.write({"__key__": f"{index:06d}-{side}", "jpg": row[f"jpg_{side}"], "txt": row["caption"]})
    return paths


def clip_retrieval(python: str, tars: list[Path], models: Path) -> tuple[str, tuple[float, float]]:
    """Version, and wall and CPU seconds, of the peer's inference; its workers' included."""
    weights = models.parent / "clip" / "open_clip_model.safetensors"
    with tempfile.TemporaryDirectory() as output:
        model = f"open_clip:ViT-B-32/{weights}"
        arguments = [output, model, str(BATCH), str(CORES), *map(str, tars)]
        environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "WANDB_MODE": "disabled"}
        command = [python, "-c", CLIP_RETRIEVAL, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    said = [line.split() for line in done.stdout.splitlines() if line.startswith("PEER ")]
    if not said:
        raise SystemExit(f"clip-retrieval failed under {python}:\n{done.stderr[-3000:]}")
    return said[0][1], (float(said[0][2]), float(said[0][3]))


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


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """(wall, CPU) seconds of each way in each round, for all pairs."""
    pairs = options.prompts * PAIRS_PER_PROMPT
    images = [photo(seed) for seed in range(options.prompts * (PAIRS_PER_PROMPT + 1))]
    rows = list(tournament_pairs(images, options.prompts))
    source = write_source(folder / "pairs.parquet", iter(rows))
    tars = write_tars(folder, rows)
    models = random_towers(folder / "models", "ViT-B-32", "ViT-B-32")
    three = load(models, "cpu", "fp32")
    one = Scoring({"clip": three.towers["clip"]}, {"clip": three.heads["clip"]}, three.identity, three.models)
    how = ComputeOptions("cpu", "fp32", BATCH)
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    version = None
    for _ in range(options.rounds):
        found["ours, one tower"].append(clock(lambda: ours(source, one, how)))
        if options.clip_retrieval:
            version, taken = clip_retrieval(options.clip_retrieval, tars, models)
            found["clip-retrieval"].append(taken)
        found["ours, three towers"].append(clock(lambda: ours(source, three, how)))
        few = rows[: options.pairs]
        wall, cpu = clock(partial(pair_by_pair, few, three))
        found["pair by pair"].append((wall * pairs / len(few), cpu * pairs / len(few)))
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
    medians = {
        name: [statistics.median(column) for column in zip(*times, strict=True)]
        for name, times in found["seconds"].items()
    }
    print(f"{found['pairs']} pairs, {found['images']} unique images, {options.prompts} prompts; CPU, medians")
    print(f"{'':<52}{'seconds':>18}{'times':>8}{'by CPU time':>13}")
    for name, own in (("clip-retrieval", "ours, one tower"), ("pair by pair", "ours, three towers")):
        if name not in medians:
            print(f"{name:<28}not measured: give --clip-retrieval PYTHON")
            continue
        shown = f"{name} {found['clip_retrieval']}" if name == "clip-retrieval" else f"{name} (extrapolated)"
        (wall, cpu), (peer_wall, peer_cpu) = medians[own], medians[name]
        seconds = f"{wall:.1f} / {peer_wall:.1f}"
        print(f"{f'{own} / {shown}':<52}{seconds:>18}{peer_wall / wall:>8.2f}{peer_cpu / cpu:>13.2f}")
    print(json.dumps({"benchmark": "embed_peers", **found, "medians": medians}))


if __name__ == "__main__":
    main()
