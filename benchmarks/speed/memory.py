"""Peak memory of `curate embed`, over data sets of growing size, with a tower that costs next to nothing.

    python -m benchmarks.speed.memory [--images 1000 10000 100000]

Each size runs in a process of its own: plan, pipeline and all, over a Parquet file of small pictures. Peak RSS is
the operating system's figure for that program alone (VmHWM; getrusage would count the peak of the process that
started it, which made the pictures).
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.speed.cheap import cheap_scoring
from benchmarks.speed.photos import photo, unique_pairs, write_source
from curate.embed.options import ComputeOptions
from curate.embed.stage import embed_source
from curate.sources.manifest import load_manifest
from curate.sources.opening import open_source
from curate.storage.run import Run

SIDE_PX = 64
DISTINCT = 64


def pictures(count: int) -> list[bytes]:
    """Different bytes for each: what follows a JPEG's end is not looked at."""
    distinct = [photo(seed, SIDE_PX) for seed in range(DISTINCT)]
    return [distinct[index % DISTINCT] + index.to_bytes(8, "little") for index in range(count)]


def child(source: Path, run: Path) -> None:
    """Embed, and print this process's peak."""
    opened = open_source(load_manifest("pickapic_v2"), None, [str(source)])
    start = time.perf_counter()
    summary = embed_source(Run(run), opened, cheap_scoring(), ComputeOptions("cpu", "fp32"))
    peak_kib = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
    seconds = time.perf_counter() - start
    print(json.dumps({"images": summary["scored_images"], "peak_rss_mib": peak_kib / 1024, "seconds": seconds}))


def measure(images: int) -> dict[str, float]:
    """One size, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        source = write_source(Path(folder) / "pairs.parquet", unique_pairs(pictures(images), images // 32))
        command = [sys.executable, "-m", "benchmarks.speed.memory", "--child", str(source), str(Path(folder) / "run")]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Print a table, then one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--child", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(*options.child)
        return
    found = [measure(images) for images in options.images]
    print(f"{'images':>10}{'peak RSS, MiB':>16}{'of the first':>14}{'images/s':>10}")
    for one in found:
        print(
            f"{one['images']:>10,}{one['peak_rss_mib']:>16.0f}{one['peak_rss_mib'] / found[0]['peak_rss_mib']:>13.2f}x"
            f"{one['images'] / one['seconds']:>10.0f}"
        )
    print(json.dumps({"benchmark": "memory", "sizes": found}))


if __name__ == "__main__":
    main()
