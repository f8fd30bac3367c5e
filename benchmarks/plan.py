"""`curate embed`'s plan over synthetic keys, beside the time that only reading those keys takes.

python -m benchmarks.plan [--pairs 1000000]
"""

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curate.manifest import load_manifest
from curate.plan import make_plan
from curate.source import Source, open_source

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
FILES = 10
ROW_GROUP_PAIRS = 1500  # as in Pick-a-Pic's files


def make_source(folder: Path, pairs: int) -> Source:
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
    path = folder / "synthetic.toml"
    path.write_text(MANIFEST)
    return open_source(load_manifest(str(path)), None)


def main() -> None:
    """Print a table, then one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=1_000_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = make_source(Path(folder), options.pairs)
        start = time.perf_counter()
        rows = sum(table.num_rows for table in source.key_rows())
        middle = time.perf_counter()
        plan = make_plan(source, 1024)
        seconds = {"read the keys": middle - start, "plan, with reading": time.perf_counter() - middle}
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # Linux counts in KiB
    print(f"{rows:,} pairs -> {plan.pairs.num_rows:,} kept, {plan.image_count:,} images, {len(plan.prompts):,} prompts")
    for name, value in seconds.items():
        print(f"{name:<20}{value:>8.2f} s{rows / value:>14,.0f} pairs/s")
    print(f"peak memory, the synthetic keys included: {peak_gb:.2f} GB")
    print(json.dumps({"benchmark": "plan", "pairs": rows, "seconds": seconds, "peak_gb": peak_gb}))


if __name__ == "__main__":
    main()
