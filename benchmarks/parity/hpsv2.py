"""HPSv2's preprocessing beside ours, on pictures of a Parquet file: the largest difference of any value.

    python -m benchmarks.parity.hpsv2 --peer CHECKOUT_OF_HPSV2 --pairs data/*.parquet

The peer's transform runs from its own checkout; nothing of it is copied here.
"""

import argparse
import importlib
import io
import json
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from PIL import Image

from curate.models.towers.hpsv2 import hpsv2_transform

SIDE_PX = 224


def peer_transform(checkout: Path) -> Any:
    """The peer's inference transform, imported without its package's other dependencies."""
    package = types.ModuleType("peer_open_clip")
    package.__path__ = [str(checkout / "hpsv2" / "src" / "open_clip")]
    sys.modules[package.__name__] = package
    module = importlib.import_module("peer_open_clip.transform")
    return module.image_transform(SIDE_PX, is_train=False, resize_longest_max=True, fill_color=0)


def main() -> None:
    """Print a table, then one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, required=True)
    parser.add_argument("--pairs", required=True, nargs="+", help="Parquet files with a column jpg_0")
    parser.add_argument("--pictures", type=int, default=100)
    options = parser.parse_args()
    version = subprocess.run(
        ["git", "-C", str(options.peer), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    columns = [pq.read_table(file, columns=["jpg_0"])["jpg_0"] for file in options.pairs]
    encoded = {value.as_py() for column in columns for value in column}
    peer, ours, largest, compared = peer_transform(options.peer), hpsv2_transform(SIDE_PX), 0.0, 0
    for data in sorted(encoded)[: options.pictures]:
        picture = Image.open(io.BytesIO(data)).convert("RGB")
        if max(picture.size) == SIDE_PX and picture.width != picture.height:
            continue  # here the peer leaves the short side unpadded, and its model refuses the shape
        largest = max(largest, (peer(picture) - ours(picture)).abs().max().item())
        compared += 1
    print(f"{compared} pictures, largest difference {largest:g} (peer {version or 'of unknown version'})")
    print(json.dumps({"benchmark": "parity_hpsv2", "pictures": compared, "largest": largest, "peer": version}))


if __name__ == "__main__":
    main()
