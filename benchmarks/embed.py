"""`curate embed` beside the towers alone, decoding alone, and the peers' way: a forward for every pair's side.

    python -m benchmarks.embed [--rounds 3] [--pairs 400]

The peers' way (PickScore's and HPSv2's own scoring code): for each judged pair, decode both pictures and run each
scorer on one picture and one prompt at a time, however often a picture or a prompt comes back.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from curate.images import Decoded, decode
from curate.manifest import load_manifest
from curate.model_set import DEFAULT_SCORERS, load_model_set
from curate.pipeline import EmbedOptions
from curate.plan import Plan, make_plan
from curate.run import Run
from curate.scoring import Scoring, load_scoring
from curate.source import Location, Source, open_source
from curate.stages.embed import embed

BATCH = 64


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def decode_all(encoded: dict[Location, bytes | None]) -> list[Decoded]:
    """Every picture, on this thread."""
    return [item for item in map(decode, encoded.values()) if isinstance(item, Decoded)]


def towers_alone(scoring: Scoring, pixels: list[dict[str, torch.Tensor]], prompts: list[str]) -> None:
    """The physical limit: forwards over what is already decoded and preprocessed."""
    for start in range(0, len(pixels), BATCH):
        scoring.embed_images(pixels[start : start + BATCH])
    for start in range(0, len(prompts), 256):
        scoring.embed_prompts(prompts[start : start + 256])


def one_by_one(scoring: Scoring, plan: Plan, encoded: dict[str, bytes], pairs: int) -> None:
    """The peers' way over the first `pairs` pairs."""
    for row in plan.pairs.slice(0, pairs).to_pylist():
        for side in (0, 1):
            decoded = decode(encoded[row[f"image_{side}_uid"]])
            assert isinstance(decoded, Decoded)
            images = scoring.embed_images([scoring.preprocess(decoded.image)])
            scoring.score(images, scoring.embed_prompts([plan.prompts[row["prompt_id"]]]))


def measure(source: Source, scoring: Scoring, pairs: int) -> dict[str, float]:
    """One round: seconds of each, for all the pairs of the source."""
    plan = make_plan(source, 1024)
    places = {uid: location for part in plan.parts for uid, location in part.images}
    encoded = source.image_bytes(list(places.values()))
    decoded = decode_all(encoded)
    pixels = [scoring.preprocess(item.image) for item in decoded]
    by_uid = {uid: encoded[location] or b"" for uid, location in places.items()}
    pairs = min(pairs, plan.pairs.num_rows)
    with tempfile.TemporaryDirectory() as folder:
        whole = seconds(lambda: embed(Run(Path(folder)), source, scoring, EmbedOptions("cpu", "fp32")))
    return {
        "curate embed": whole,
        "towers alone": seconds(lambda: towers_alone(scoring, pixels, list(plan.prompts.values()))),
        "decoding alone, one thread": seconds(lambda: decode_all(encoded)),
        "pair by pair (extrapolated)": seconds(lambda: one_by_one(scoring, plan, by_uid, pairs))
        * plan.pairs.num_rows
        / pairs,
    }


def main() -> None:
    """Print a table, then one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=400, help="pairs that the slow way really scores")
    options = parser.parse_args()
    source = open_source(load_manifest("demo"), None)
    models = load_model_set("demo")
    scoring = load_scoring(models, models.choose(list(DEFAULT_SCORERS)), "cpu", "fp32")
    rounds = [measure(source, scoring, options.pairs) for _ in range(options.rounds)]
    medians = {name: statistics.median(found[name] for found in rounds) for name in rounds[0]}
    whole = medians["curate embed"]
    print(f"{'the demo on this CPU':<30}{'seconds':>9}{'of curate embed':>17}")
    for name, value in medians.items():
        print(f"{name:<30}{value:>9.2f}{value / whole:>16.2f}x")
    print(json.dumps({"benchmark": "embed", "rounds": options.rounds, "seconds": medians}))


if __name__ == "__main__":
    main()
