"""`curate embed` of the same pictures from a tar, a zip and a folder, beside Parquet that holds them.

    python -m benchmarks.speed.places [--images 600] [--rounds 3]

The demo's models over 512 squared JPEGs, each decoded. Timed is all but the loading of weights: rows, plan, reading,
decoding, towers, tables. The rows of a JSONL file are made by a process of its own, which takes about a second
whatever the size of a small set: `past rows` is the share without it. Places in turn; medians, and the slowest round.
"""

import argparse
import json
import statistics
import tarfile
import tempfile
import time
import zipfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.speed.photos import photo
from curate.embed.options import ComputeOptions
from curate.embed.stage import embed_source
from curate.models.model_set import load_model_set
from curate.models.scoring import Scoring, UnloadedScoring
from curate.sources.manifest import load_manifest
from curate.sources.opening import open_source
from curate.storage.folder import LocalFolder
from curate.storage.run import Run

REACH = {"parquet": 1.0, "tar": 0.95, "zip": 0.9, "folder": 0.9}
ROOTS = {"tar": "pictures.tar", "zip": "pictures.zip", "folder": "."}
SIDES = 'image_0_uid = "a"\nimage_1_uid = "b"\nlabel_0 = "label"'


def make_sets(folder: Path, images: int) -> None:
    """Every picture once, two to a pair, in four places."""
    names = [f"{place:06d}.jpg" for place in range(images)]
    data = [photo(place) for place in range(images)]
    rows = [{"prompt": f"p{i % 16}", "a": names[i], "b": names[i + 1], "label": 1.0} for i in range(0, images - 1, 2)]
    with tarfile.open(folder / "pictures.tar", "w") as tar, zipfile.ZipFile(folder / "pictures.zip", "w") as archive:
        for name, picture in zip(names, data, strict=True):
            (folder / name).write_bytes(picture)
            tar.add(folder / name, name)
            archive.writestr(name, picture)
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    inside = {"x": data[0::2], "y": data[1::2]}
    pq.write_table(
        pa.table(pa.Table.from_pylist(rows).to_pydict() | inside), folder / "pairs.parquet", row_group_size=100
    )
    for place in REACH:
        kind, columns = ("parquet", 'image_0_bytes = "x"\nimage_1_bytes = "y"')
        if place != "parquet":
            kind, columns = "jsonl", 'image_0_path = "a"\nimage_1_path = "b"'
        root = f'images = "{ROOTS[place]}"\n' if place in ROOTS else ""
        reading = f'[columns]\nprompt = "prompt"\n{SIDES}\n{columns}\n'
        (folder / f"{place}.toml").write_text(f'{root}[splits.train]\nfiles = ["pairs.{kind}"]\n{reading}')


def embedded(folder: Path, place: str, scoring: Scoring, images: int) -> tuple[float, float]:
    """Seconds in all, and until the rows were there."""
    with tempfile.TemporaryDirectory() as run:
        start = time.perf_counter()
        source = open_source(load_manifest(str(folder / f"{place}.toml")), None).with_rows(LocalFolder(Path(run)))
        rows = time.perf_counter() - start
        summary: dict[str, Any] = embed_source(Run(Path(run)), source, scoring, ComputeOptions("cpu", "fp32"))
        assert summary["scored_images"] == images, summary
        return time.perf_counter() - start, rows


def main() -> None:
    """Print a table, then one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    model_set = load_model_set("demo")
    scoring = UnloadedScoring(model_set, tuple(model_set.choose(["clip"])), "fp32").on("cpu")
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as name:
        make_sets(Path(name), options.images)
        for _ in range(options.rounds):
            for place in REACH:
                found[place].append(embedded(Path(name), place, scoring, options.images))
    print(f"{'from':<10}{'images/s':>10}{'of Parquet':>12}{'slowest':>9}{'past rows':>11}{'reach':>7}{'rows, s':>9}")
    rows = []
    for place, reach in REACH.items():
        rounds = list(zip(found["parquet"], found[place], strict=True))
        shares, past = (
            [one[0] / other[0] for one, other in rounds],
            [one[0] / (all_ - made) for one, (all_, made) in rounds],
        )
        seconds, made = (statistics.median(column) for column in zip(*found[place], strict=True))
        share, rate = statistics.median(shares), options.images / seconds
        print(
            f"{place:<10}{rate:>10.1f}{share:>12.2f}{min(shares):>9.2f}{statistics.median(past):>11.2f}{reach:>7}{made:>9.2f}"
        )
        rows.append({"place": place, "of_parquet": shares, "past_rows": past, "seconds": found[place]})
    print(json.dumps({"benchmark": "places", "images": options.images, "rows": rows}))


if __name__ == "__main__":
    main()
