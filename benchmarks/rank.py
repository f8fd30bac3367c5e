"""`curate rank` on synthetic scores, beside the same ranking in polars, in memory.

python -m benchmarks.rank [--pairs 1000000] [--rounds 3]
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from curate.database import Psi
from curate.run import Run
from curate.stages.rank import RankOptions, rank
from curate.tables import write_table
from schemas import tables

SCORERS = ["clip", "pickscore", "aesthetic"]
PSI = Psi(dict.fromkeys(SCORERS, 1.0), "percentile")


def make_run(root: Path, pairs: int) -> Run:
    """A finished run of `pairs` judged pairs over as many images, 16 pairs a prompt, 12 % ties."""
    random, run = np.random.default_rng(0), Run(root)
    prompt = np.arange(pairs) // 16
    images = np.arange(pairs + 1)
    columns = {
        "pair_id": [f"{i:016x}" for i in random.permutation(pairs)],
        "prompt_id": [f"p{i}" for i in prompt],
        "image_0_uid": [f"i{i}" for i in images[:-1]],
        "image_1_uid": [f"i{i}" for i in images[1:]],
        "preference": pa.array(random.choice([0, 1, 2], pairs, p=[0.44, 0.44, 0.12]), pa.int8()),
        "split": ["train"] * pairs,
        "source_file": ["f"] * pairs,
        "source_row_group": np.zeros(pairs, np.int32),
        "source_row": np.arange(pairs),
    }
    frame = pl.DataFrame(columns).with_columns(
        preference=pl.when(pl.col("preference") < 2).then("preference"),
        annotator_id=pl.lit(None, pl.String),
        image_0_model=pl.lit(None, pl.String),
        image_1_model=pl.lit(None, pl.String),
    )
    write_table(frame.select(tables.PAIRS.names).to_arrow(), run.pairs, tables.PAIRS)
    slots = pl.concat(
        frame.select("prompt_id", pl.col(f"image_{side}_uid").alias("image_uid")) for side in (0, 1)
    ).unique()
    scores = slots.with_columns(
        pl.Series(f"{s}_score", random.normal(size=slots.height)).cast(pl.Float32) for s in SCORERS
    )
    schema = tables.with_scores(tables.SCORES, SCORERS)
    write_table(scores.to_arrow(), run.table("scores") / "part-00000.parquet", schema)
    for name, empty in (("images", tables.IMAGES), ("prompts", tables.PROMPTS), ("dropped", tables.DROPPED)):
        write_table(empty.empty_table(), run.table(name) / "part-00000.parquet", empty)
    run.claim({"split": "train"}, {})
    run.mark_finished({"judged": True, "pairs": pairs, "scorers": SCORERS, "dataset": "synthetic"})
    return run


def polars_ranking(run: Run) -> pl.DataFrame:
    """The same order by polars: percentiles among the pictures of eligible pairs, blended, qsd, sorted."""
    pairs = pl.read_parquet(run.pairs).filter(pl.col("preference").is_not_null())
    zero = pl.col("preference") == 0
    sided = pairs.select(
        "pair_id",
        "prompt_id",
        preferred_uid=pl.when(zero).then("image_0_uid").otherwise("image_1_uid"),
        rejected_uid=pl.when(zero).then("image_1_uid").otherwise("image_0_uid"),
    )
    used = pl.concat(
        sided.select("prompt_id", pl.col(f"{side}_uid").alias("image_uid")) for side in ("preferred", "rejected")
    ).unique()
    scores = pl.read_parquet(str(run.table("scores") / "*.parquet")).join(
        used, on=["prompt_id", "image_uid"], how="semi"
    )
    shares = [(pl.col(f"{s}_score").rank("min") - 1) / (pl.len() - 1) for s in SCORERS]
    psi = scores.select("prompt_id", "image_uid", psi=pl.sum_horizontal(shares) / len(SCORERS))
    for side in ("preferred", "rejected"):
        renamed = psi.rename({"image_uid": f"{side}_uid", "psi": f"psi_{side}"})
        sided = sided.join(renamed, on=["prompt_id", f"{side}_uid"])
    quality = pl.col("psi_preferred") * (1 - pl.col("psi_rejected"))
    return sided.with_columns(quality=quality).sort(["quality", "pair_id"], descending=[True, False])


def main() -> None:
    """Print a table, then one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    times: dict[str, list[float]] = {"curate rank": [], "polars, in memory": []}
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(Path(folder), options.pairs)
        for _ in range(options.rounds):
            start = time.perf_counter()
            rank(run, RankOptions(PSI))
            middle = time.perf_counter()
            expected = polars_ranking(run)
            times["curate rank"].append(middle - start)
            times["polars, in memory"].append(time.perf_counter() - middle)
        ours = pl.read_parquet(run.rankings / "default.parquet")
        same = int((ours["pair_id"] == expected["pair_id"]).sum()) / ours.height
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(f"{options.pairs:,} pairs, {ours.height:,} ranked; same pair at the same rank: {100 * same:.3f} %")
    for name, value in medians.items():
        print(f"{name:<20}{value:>8.2f} s{value / medians['curate rank']:>8.2f}x")
    print(json.dumps({"benchmark": "rank", "pairs": options.pairs, "seconds": medians, "same": same}))


if __name__ == "__main__":
    main()
