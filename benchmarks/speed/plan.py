"""`curate embed`'s plan over synthetic keys, beside DuckDB bringing the same columns into Arrow.

python -m benchmarks.speed.plan [--pairs 1000000] [--rounds 3]
From Parquet by [columns] beside DuckDB's read, and from JSONL by [query] beside the bare query; there ours writes
rows.parquet, too. Each measurement is a process of its own, the four in turn. Peaks are of that process alone.
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
from curate.storage.folder import LocalFolder

KEYS = {
    "prompt": "prompt",
    "image_0_uid": "uid_0",
    "image_1_uid": "uid_1",
    "label_0": "label",
    "annotator_id": "annotator",
    "judgement_id": "judgement",
}
COLUMNS = KEYS | {"image_0_path": "path_0", "image_1_path": "path_1"}
SELECTED = ", ".join(f"{theirs} as {ours}" for ours, theirs in COLUMNS.items())
MANIFESTS = {
    "parquet": "[columns]\n" + "\n".join(f'{ours} = "{theirs}"' for ours, theirs in COLUMNS.items()),
    "jsonl": f'[query]\nsql = "select {SELECTED} from source"',
}
BARE = {  # where a picture has a uid, ours reads no path from Parquet
    "parquet": f"select {', '.join(KEYS.values())} from read_parquet('{{folder}}/*.parquet')",
    "jsonl": f"select {SELECTED} from read_json('{{folder}}/*.jsonl')",
}
REACH = {"parquet": 3, "jsonl": 2}
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
    with duckdb.connect() as connection:
        for number in range(FILES):
            connection.register("part", part := table.slice(number * size, size))
            pq.write_table(part, folder / f"train-{number}.parquet", row_group_size=ROW_GROUP_PAIRS)
            connection.execute(f"copy part to '{folder}/train-{number}.jsonl' (format json)")
    for kind, reading in MANIFESTS.items():
        (folder / f"{kind}.toml").write_text(f'[splits.train]\nfiles = ["*.{kind}"]\n{reading}\n')


def plan(folder: Path, kind: str) -> dict[str, Any]:
    """Ours: read, judged, hashed, cut into parts."""
    with tempfile.TemporaryDirectory() as run:
        start = time.perf_counter()
        source = open_source(load_manifest(str(folder / f"{kind}.toml")), None).with_rows(LocalFolder(Path(run)))
        made = make_plan(source, 4096)
        return {"seconds": time.perf_counter() - start} | made.counts()


def bare(folder: Path, kind: str) -> dict[str, Any]:
    """The yardstick: only read, by both cores."""
    start = time.perf_counter()
    with duckdb.connect() as connection:
        connection.execute("set enable_progress_bar = false")
        rows = connection.sql(BARE[kind].format(folder=folder)).to_arrow_table().num_rows
    return {"seconds": time.perf_counter() - start, "source_rows": rows}


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
        rounds = [
            {kind: (apart(plan, folder, kind), apart(bare, folder, kind)) for kind in MANIFESTS}
            for _ in range(options.rounds)
        ]
    first = rounds[0]["parquet"][0]
    print(f"{first['source_rows']:,} pairs, {first['images']:,} images, {first['prompts']:,} prompts; medians")
    print(f"{'plan of':<12}{'seconds':>10}{'DuckDB':>10}{'ratio':>8}{'slowest':>9}{'reach':>7}{'peak GiB':>10}")
    rows = []
    for kind in MANIFESTS:
        ours, yardstick = ([round_[kind][place] for round_ in rounds] for place in (0, 1))
        ratios = [one["seconds"] / other["seconds"] for one, other in zip(ours, yardstick, strict=True)]
        seconds, bare_seconds = (statistics.median(run["seconds"] for run in runs) for runs in (ours, yardstick))
        ratio, slowest, peak = statistics.median(ratios), max(ratios), max(run["peak_gib"] for run in ours)
        print(
            f"{kind:<12}{seconds:>10.2f}{bare_seconds:>10.2f}{ratio:>8.2f}{slowest:>9.2f}{REACH[kind]:>7}{peak:>10.2f}"
        )
        rows.append({"kind": kind, "ratio": ratio, "slowest": slowest, "ours": ours, "bare": yardstick})
    print(json.dumps({"benchmark": "plan", "pairs": first["source_rows"], "rows": rows}))


if __name__ == "__main__":
    main()
