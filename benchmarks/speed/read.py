"""What a picture costs to read from a local Parquet file, and the memory that a row group takes.

    python -m benchmarks.speed.read [--rows 500] [--groups 3] [--image-bytes 168000] [--rounds 5] [--struct]

Ours is `read_groups`, by which `curate embed` reads. Beside it the whole row group by `read_row_group` and a copy of
each of its pictures, as it was before, and the same of a file mapped into memory. Pictures are random bytes, which no
codec shrinks.
CPU time of all threads, which other work on a machine changes less than wall time; medians, and the slowest round.
Each way runs in a process of its own, so that its peak of memory is its own.
"""

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curate.embed.decode.reading import read_groups
from curate.embed.planning.plan import Part
from curate.sources.manifest import Manifest
from curate.sources.parquet import Location, Source

COLUMNS = {"prompt": "p", "image_0_bytes": "jpg_0", "image_1_bytes": "jpg_1"}


def write_source(path: Path, rows: int, groups: int, image_bytes: int, struct: bool) -> None:
    """Row groups of pictures, written one at a time; `struct`: as Hugging Face `Image` columns."""
    rng, kind = np.random.default_rng(0), pa.binary()
    if struct:
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("p", pa.string()), ("jpg_0", kind), ("jpg_1", kind)])
    with pq.ParquetWriter(path, schema, use_dictionary=False) as writer:
        for _ in range(groups):
            images = [rng.bytes(image_bytes) for _ in range(2 * rows)]
            values = [{"bytes": data, "path": None} for data in images] if struct else images
            sides = [pa.array(values[side::2], kind) for side in (0, 1)]
            writer.write_table(pa.table([pa.array(["p"] * rows), *sides], schema=schema), row_group_size=rows)


def ours(file: str) -> Iterator[list[bytes | None]]:
    """Pictures that are there at a time."""
    metadata = pq.read_metadata(file)
    source = Source(Manifest("read", Path("read"), COLUMNS, {}, "train"), "train", (file,), None)
    for group in range(metadata.num_row_groups):
        rows = range(metadata.row_group(group).num_rows)
        places = [Location(file, group, row, side) for row in rows for side in (0, 1)]
        images = tuple((str(number), place) for number, place in enumerate(places))
        yield from ([image.data for image in batch.images] for batch in read_groups(source, [Part(0, images, {})]))


def whole(file: str, *, memory_map: bool = False) -> Iterator[list[bytes | None]]:
    """The same by `read_row_group`; of structs their bytes."""
    parquet = pq.ParquetFile(file, memory_map=memory_map)
    for group in range(parquet.num_row_groups):
        table = parquet.read_row_group(group, columns=["jpg_0", "jpg_1"])
        columns = [pc.struct_field(c, "bytes") if pa.types.is_struct(c.type) else c for c in table.columns]
        yield [bytes(value.as_buffer()) for column in columns for value in column]


def mapped(file: str) -> Iterator[list[bytes | None]]:
    """`whole` of a file that is mapped."""
    return whole(file, memory_map=True)


WAYS = {"ours": ours, "whole row groups": whole, "whole, mapped": mapped}


def peak_bytes() -> int:
    """Of this program alone (VmHWM; getrusage would count the peak of the process that started it)."""
    return 1024 * int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])


def measured(way: str, file: str, rounds: int) -> dict[str, float | str]:
    """CPU milliseconds a picture, and the process's peak beside what it had before."""
    costs, before = [], peak_bytes()
    for _ in range(rounds):
        start = time.process_time()
        try:
            pictures = sum(len(images) for images in WAYS[way](file))
        except pa.ArrowNotImplementedError as error:
            return {"way": way, "failed": str(error)}
        costs.append(1000 * (time.process_time() - start) / pictures)
    peak_mb = (peak_bytes() - before) / 1e6
    return {"way": way, "median_ms": statistics.median(costs), "slowest_ms": max(costs), "peak_mb": peak_mb}


def main() -> None:
    """Print a table, then one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--groups", type=int, default=3)
    parser.add_argument("--image-bytes", type=int, default=168_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--struct", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pairs.parquet"
        write_source(file, options.rows, options.groups, options.image_bytes, options.struct)
        rows = []
        for way in WAYS:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                rows.append(pool.apply(measured, (way, str(file), options.rounds)))
    for row in rows:
        numbers = "  ".join(f"{key} {value:.3g}" for key, value in row.items() if isinstance(value, float))
        print(f"{row['way']:18}{numbers or row['failed']}")
    print(json.dumps({"benchmark": "read", **vars(options), "ways": rows}))


if __name__ == "__main__":
    main()
