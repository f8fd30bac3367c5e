"""`curate embed`'s plan over synthetic keys, beside DuckDB reading the same columns into Arrow.

python -m benchmarks.speed.plan [--pairs 1000000] [--rounds 3]
Each measurement is a process of its own, the two in turn; reach: at most three times DuckDB's time, and 2 GiB.
"""

import argparse
import json
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curate.embed.planning.plan import make_plan
from curate.sources.manifest import load_manifest
from curate.sources.opening import open_source

MANIFEST = """
[splits.train]
files = ["*.parquet"]
[columns]
prompt = "prompt"
image_0_uid = "uid_0"
image_1_uid = "uid_1"
image_0_path = "path_0"
image_1_path = "path_1"
label_0 = "label"
annotator_id = "annotator"
judgement_id = "judgement"
"""
KEYS = ("prompt", "uid_0", "uid_1", "label", "annotator", "judgement")
FILES = 10
ROW_GROUP_PAIRS = 1500  # as in Pick-a-Pic's files


def make_source(folder: Path, pairs: int) -> None:
    """Keys in Pick-a-Pic's proportions: 16 pairs a prompt, 1.05 images a pair, a ninth of them ties."""
    random = np.random.default_rng(0)
    images = random.integers(0, max(2, int(1.05 * pairs)), (2, pairs))
    columns: dict[str, object] = {
        "prompt": [
            f"a picture of scene {i}, highly detailed, soft light" for i in random.integers(0, pairs, pairs) // 16
        ],
        "label": random.choice([0.0, 0.5, 1.0], pairs, p=[4 / 9, 1 / 9, 4 / 9]),
        "annotator": random.integers(0, 5000, pairs),
        "judgement": np.arange(pairs),
    }
    for side in (0, 1):
        columns[f"uid_{side}"] = [f"{i:08x}-0000-4000-8000-000000000000" for i in images[side]]
        columns[f"path_{side}"] = [f"images/{i}.jpg" for i in images[side]]
    table, size = pa.table(columns), -(-pairs // FILES)
    for number in range(FILES):
        part = table.slice(number * size, size)
        pq.write_table(part, folder / f"train-{number}.parquet", row_group_size=ROW_GROUP_PAIRS)
    (folder / "synthetic.toml").write_text(MANIFEST)


def plan(folder: Path) -> dict[str, Any]:
    """Ours: read, judged, hashed, cut into parts."""
    start, cpu_start = time.perf_counter(), time.process_time()
    made = make_plan(open_source(load_manifest(str(folder / "synthetic.toml")), None), 4096)
    return {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu_start} | made.counts()


def read_by_duckdb(folder: Path) -> dict[str, Any]:
    """The yardstick: only read."""
    start, cpu_start = time.perf_counter(), time.process_time()
    with duckdb.connect() as connection:
        connection.execute("set enable_progress_bar = false")
        query = f"select {', '.join(KEYS)} from read_parquet('{folder}/*.parquet')"
        rows = connection.sql(query).to_arrow_table().num_rows
    return {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu_start, "source_rows": rows}


def apart(work: Callable[..., Any], *values: object) -> Any:
    """In a process of its own, with its peak memory."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        answer = pool.apply(work, values)
        peak_kib = pool.apply(_peak_kib)
    return answer | {"peak_gib": peak_kib / 2**20} if answer else None


def _peak_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # Linux counts in KiB


def main() -> None:
    """Print a table, then one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        apart(make_source, folder, options.pairs)
        rounds = [(apart(plan, folder), apart(read_by_duckdb, folder)) for _ in range(options.rounds)]
    ours, yardstick = ([round_[i] for round_ in rounds] for i in (0, 1))
    first = ours[0]
    print(f"{first['source_rows']:,} pairs, {first['images']:,} images, {first['prompts']:,} prompts")
    print(f"{'':<26}{'seconds':>10}{'CPU s':>10}{'peak GiB':>10}")
    medians = {}
    for name, runs in (("plan", ours), ("DuckDB, reading only", yardstick)):
        medians[name] = {
            key: statistics.median(run[key] for run in runs) for key in ("seconds", "cpu_seconds", "peak_gib")
        }
        print(f"{name:<26}" + "".join(f"{value:>10.2f}" for value in medians[name].values()))
    ratio = statistics.median(one["seconds"] / other["seconds"] for one, other in rounds)
    print(f"plan / DuckDB: {ratio:.2f} (reach: at most 3)")
    print(json.dumps({"benchmark": "plan", "pairs": first["source_rows"], "ratio": ratio, **medians}))


if __name__ == "__main__":
    main()
