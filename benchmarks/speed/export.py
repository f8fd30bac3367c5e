"""`curate export-shards` and `export-for`, hashing included, beside `cp` of the same files, webdataset's ShardWriter,
and a loop that reads the source's rows in rank order.

python -m benchmarks.speed.export [--pairs 2000] [--source-pairs 2000] [--repeats 5] [--folder DIR]
python -m benchmarks.speed.export --memory 1000,10000,100000

A synthetic source of files, row groups and random bytes in the sizes of Pick-a-Pic's images (90 to 250 kB), and a
ranking that selects pairs all over it. Each repeat runs every contestant once, one after the other, and ends with
its bytes on the disk. All read the same source; ShardWriter is given its best case, the source's own order, and
hashes nothing. The loop reads a pair's row group when its turn comes, and writes a tar of the best LOOP_PAIRS pairs
only; its rate stands for the whole. CPU time is that of the process and its children, user and system: on a shared
machine it says what the wall clock would on an idle one. `--memory` measures the peak of a process that exports so
many small images.
"""

import argparse
import hashlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from webdataset import ShardWriter, TarWriter

from curate.export import ExportOptions, LayoutOptions, export_for, export_shards
from curate.export.order import ShardSize
from curate.storage.run import Run
from curate.storage.tables import write_table, write_text
from schemas import tables

ROW_GROUP_PAIRS, FILE_PAIRS = 100, 1000
IMAGE_BYTES = (90_000, 250_000)
SMALL_IMAGE_BYTES = (3_000, 9_000)
LOOP_PAIRS = 60
LAYOUTS = ("folders", "parquet")


def make_run(folder: Path, pairs: int, selected: int, sizes: tuple[int, int]) -> Run:
    """A source of random bytes and the tables of a run over it; every fourth image is that of the pair before."""
    random = np.random.default_rng(0)
    run, images, rows = Run(folder / "run"), [], []
    for start in range(0, pairs, FILE_PAIRS):
        file = folder / f"train-{start // FILE_PAIRS:03d}.parquet"
        count = min(FILE_PAIRS, pairs - start)
        sides = [[random.bytes(int(size)) for size in random.integers(*sizes, count)] for _ in (0, 1)]
        pq.write_table(
            pa.table({f"jpg_{side}": pa.array(data, pa.binary()) for side, data in enumerate(sides)}),
            file,
            row_group_size=ROW_GROUP_PAIRS,
        )
        for at in range(count):
            row_group, row = divmod(at, ROW_GROUP_PAIRS)
            place = {"source_file": str(file), "source_row_group": row_group, "source_row": row}
            uids = [f"image-{start + at}-{side}" for side in (0, 1)]
            for side, uid in enumerate(uids):
                data = sides[side][at]
                facts = {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
                images.append(
                    {"image_uid": uid, "width": 512, "height": 512, "format": "JPEG", "source_side": side}
                    | facts
                    | place
                )
            rows.append((f"{start + at:016x}", uids, place))
    _write_tables(run, images, rows, random.permutation(pairs)[:selected], folder)
    return run


def _write_tables(run: Run, images: list[dict], rows: list[tuple], order: np.ndarray, folder: Path) -> None:
    pairs = [
        dict.fromkeys(tables.PAIRS.names)
        | {"pair_id": pair, "prompt_id": f"{int(pair, 16) // 16:016x}", "preference": 0, "split": "train"}
        | {"image_0_uid": uids[0], "image_1_uid": uids[1]}
        | place
        for pair, uids, place in rows
    ]
    prompts = [
        {"prompt_id": prompt, "prompt": f"a photo of thing {prompt}, highly detailed"}
        for prompt in sorted({one["prompt_id"] for one in pairs})
    ]
    ranking = [
        {"pair_id": pairs[at]["pair_id"], "prompt_id": pairs[at]["prompt_id"], "quality": 1 - rank / len(pairs)}
        | {"preferred_uid": pairs[at]["image_0_uid"], "rejected_uid": pairs[at]["image_1_uid"], "passed_over": None}
        | {"rank": rank, "percentile": 1.0, "selected": True}
        | {"clip_preferred": 0.3, "clip_rejected": 0.2, "clip_margin": 0.1}
        for rank, at in enumerate(order, start=1)
    ]
    scored = [{"prompt_id": one["prompt_id"], "image_uid": one["image_0_uid"], "clip_score": 0.3} for one in pairs[:1]]
    for name, found, schema in (
        ("images", images, tables.IMAGES),
        ("prompts", prompts, tables.PROMPTS),
        ("scores", scored, tables.with_scores(tables.SCORES, ["clip"])),
        ("dropped", [], tables.DROPPED),
    ):
        write_table(pa.Table.from_pylist(found, schema=schema), run.table(name) / "part-00000.parquet", schema)
    write_table(pa.Table.from_pylist(pairs, schema=tables.PAIRS), run.pairs, tables.PAIRS)
    schema = tables.with_margins(tables.RANKING, ["clip"])
    write_table(pa.Table.from_pylist(ranking, schema=schema), run.rankings / "default.parquet", schema)
    write_text(
        'name = "default"\nmetric = "qsd"\npsi_norm = "percentile"\ntop = "1.0"\n'
        f"base_pairs = {len(pairs)}\nselected_pairs = {len(ranking)}\n[psi]\nclip = 1.0\n",
        run.rankings / "default.toml",
    )
    columns = {"prompt": "caption", "image_0_bytes": "jpg_0", "image_1_bytes": "jpg_1"}
    files = {str(path): path.stat().st_size for path in sorted(folder.glob("*.parquet"))}
    manifest = {"name": "synthetic", "columns": columns, "control_image_uids": []}
    run.claim(
        {"manifest": manifest, "split": "train", "files": files, "models": {"scorers": {"clip": {}}}},
        {"data_set": {"license": "mit"}},
    )
    run.mark_finished({"judged": True, "pairs": len(pairs), "scorers": ["clip"], "dataset": "synthetic"})


def export_with(run: Run, workers: int) -> Callable[[Path], None]:
    """Ours: every image and every tar hashed, samples in rank order, each tar flushed."""
    return lambda output: (
        export_shards(run, ExportOptions(output=str(output), size=ShardSize(250), workers=workers)),
        None,
    )[1]


def layout_with(run: Run, layout: str, workers: int) -> Callable[[Path], None]:
    """Ours: every image hashed, samples in rank order, all of it flushed."""
    return lambda output: (export_for(run, LayoutOptions(layout, output=str(output), workers=workers)), None)[1]


def copy_of(folder: Path) -> Callable[[Path], None]:
    """`cp` of a finished export, then sync as the export does: of each file, or of all when they are many."""

    def copied(output: Path) -> None:
        subprocess.run(["cp", "-r", str(folder), str(output)], check=True)
        if (folder / "export.json").exists():
            os.sync()
        else:
            subprocess.run(["sync", *map(str, output.iterdir())], check=True)

    return copied


def shard_writer(run: Run) -> Callable[[Path], None]:
    """webdataset's writer from the same source, sample by sample in the source's order, then sync."""
    selected = pq.read_table(run.rankings / "default.parquet")["pair_id"].to_pylist()
    wanted = set(selected)

    def written(output: Path) -> None:
        output.mkdir()
        pattern = str(output / "pairs-%06d.tar")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with ShardWriter(pattern, maxcount=250, maxsize=1e12, verbose=0) as writer:
                number = 0
                for file in run.settings()["settings"]["files"]:
                    parquet = pq.ParquetFile(file)
                    for row_group in range(parquet.num_row_groups):
                        for row in parquet.read_row_group(row_group).to_pylist():
                            pair, number = f"{number:016x}", number + 1
                            if pair in wanted:
                                meta = json.dumps({"pair_id": pair, "quality": 0.5, "rank": number}).encode()
                                sample = {"preferred.jpg": row["jpg_0"], "rejected.jpg": row["jpg_1"]}
                                writer.write({"__key__": pair, "txt": b"a prompt", "json": meta} | sample)
        subprocess.run(["sync", *map(str, output.iterdir())], check=True)

    return written


def loop_in_rank_order(run: Run) -> Callable[[Path], None]:
    """What one writes by hand: the best pairs, each row read when its turn comes, then sync."""
    ranked = pq.read_table(run.rankings / "default.parquet")["pair_id"].to_pylist()[:LOOP_PAIRS]
    files = [pq.ParquetFile(file) for file in run.settings()["settings"]["files"]]

    def written(output: Path) -> None:
        output.mkdir()
        path = output / "pairs-000000.tar"
        with TarWriter(str(path), encoder=False) as writer:
            for rank, pair in enumerate(ranked, start=1):
                file, at = divmod(int(pair, 16), FILE_PAIRS)
                row_group, row = divmod(at, ROW_GROUP_PAIRS)
                found = files[file].read_row_group(row_group).slice(row, 1).to_pylist()[0]
                meta = json.dumps({"pair_id": pair, "quality": 0.5, "rank": rank}).encode()
                sample = {"preferred.jpg": found["jpg_0"], "rejected.jpg": found["jpg_1"]}
                writer.write({"__key__": f"{rank:09d}", "txt": b"a prompt", "json": meta} | sample)
        subprocess.run(["sync", str(path)], check=True)

    return written


def measure(folder: Path, options: argparse.Namespace) -> dict[str, list[tuple[float, float, int]]]:
    """(wall seconds, CPU seconds, bytes written) of each contestant, repeat by repeat."""
    run = make_run(folder, options.source_pairs, options.pairs, IMAGE_BYTES)
    contestants = {f"export-shards, {n} worker{'s' * (n > 1)}": export_with(run, n) for n in options.workers}
    made = {"shards": export_with(run, 2)} | {layout: layout_with(run, layout, 2) for layout in LAYOUTS}
    for name, make in made.items():
        make(folder / name)  # what cp copies; also brings the source into the page cache for everyone
        contestants |= {} if name == "shards" else {f"export-for {name}": make}
        contestants |= {f"cp of {name}": copy_of(folder / name)}
    contestants |= {"ShardWriter": shard_writer(run), "loop in rank order": loop_in_rank_order(run)}
    found: dict[str, list[tuple[float, float, int]]] = {name: [] for name in contestants}
    for _ in range(options.repeats):
        for name, work in contestants.items():
            output = folder / "output"
            os.sync()
            start, cpu = time.perf_counter(), _cpu_sec()
            work(output)
            seconds, cpu = time.perf_counter() - start, _cpu_sec() - cpu
            found[name].append((seconds, cpu, sum(one.stat().st_size for one in output.rglob("*") if one.is_file())))
            shutil.rmtree(output)
    return found


def _cpu_sec() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def report(found: dict[str, list[tuple[float, float, int]]], options: argparse.Namespace) -> None:
    """A table of medians, then one JSON line."""
    wall = {name: statistics.median(one[0] for one in values) for name, values in found.items()}
    cpu = {name: statistics.median(one[1] for one in values) for name, values in found.items()}
    rate = {name: values[0][2] / wall[name] / 1e6 for name, values in found.items()}
    print(f"{options.pairs:,} of {options.source_pairs:,} pairs, median of {options.repeats} runs")
    for name, values in found.items():
        ends = [f"{end(one for one, *_ in values):.2f}" for end in (min, max)]
        size = f"{values[0][2] / 1e6:,.0f} MB"
        print(f"{name:<26}{wall[name]:>7.2f} s{rate[name]:>7,.0f} MB/s of {size:>7}{cpu[name]:>7.2f} s CPU ", end="")
        print(f"  {ends[0]} .. {ends[1]} s")
    best = max(value for name, value in rate.items() if name.startswith("export-shards"))
    peers = {"cp of shards": 0.25, "ShardWriter": 1.0, "loop in rank order": 5.0}
    ratios = {f"export-shards : {peer}": (best / rate[peer], aim) for peer, aim in peers.items()}
    ratios |= {
        f"export-for {one} : cp of {one}": (rate[f"export-for {one}"] / rate[f"cp of {one}"], 0.5) for one in LAYOUTS
    }
    for name, (ratio, aim) in ratios.items():
        print(f"{name:<40}{ratio:>7.2f}   aim {aim:g}")
    document = {"benchmark": "export", "wall_sec": wall, "cpu_sec": cpu, "mb_per_sec": rate}
    document |= {"ratios": {name: ratio for name, (ratio, _) in ratios.items()}}
    print(json.dumps(document | {"load": os.getloadavg()[0], "cores": os.cpu_count()}))


def measure_memory(folder: Path, counts: list[int]) -> None:
    """The peak of a process that exports so many images, each in a process of its own."""
    peaks = {}
    for count in counts:
        place = folder / str(count)
        place.mkdir()
        make_run(place, count // 2, count // 2, SMALL_IMAGE_BYTES)
        code = (
            "import sys; from benchmarks.speed.export import *; "
            "export_with(Run(Path(sys.argv[1]) / 'run'), 2)(Path(sys.argv[1]) / 'output'); "
            "print(Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0])"
        )
        done = subprocess.run([sys.executable, "-c", code, str(place)], check=True, capture_output=True, text=True)
        peaks[count] = int(done.stdout) / 1e3  # of this program alone; in KiB, and getrusage counts its parent's, too
        print(f"{count:>9,} images   peak {peaks[count]:>7,.0f} MB")
        shutil.rmtree(place)
    print(json.dumps({"benchmark": "export memory", "peak_mb": peaks}))


def main() -> None:
    """Print a table, then one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--source-pairs", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--folder", type=Path, help="Where to work; the system's temporary folder if absent.")
    parser.add_argument("--memory", type=lambda text: [int(one) for one in text.split(",")])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        if options.memory:
            measure_memory(Path(folder), options.memory)
            return
        report(measure(Path(folder), options), options)


if __name__ == "__main__":
    main()
