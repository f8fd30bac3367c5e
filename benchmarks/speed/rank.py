"""`curate rank` on synthetic scores of Pick-a-Pic's shape, beside the bare query, polars and pandas; and at scale.

python -m benchmarks.speed.rank                 compare, calibrated and diversity at the size of Pick-a-Pic v2
python -m benchmarks.speed.rank --scale 1,10,100 --memory 7GB    millions of pairs, spilled where memory is short

Every measurement is a process of its own, so that its peak memory is its own. Each writes the same ranking.
"""

import argparse
import contextlib
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.speed.synthetic import SCORERS, make_run

PSI_SCORERS = ["clip", "pickscore", "aesthetic"]
TOP, MOST = 0.0533, 10
PROMPTS, DIMENSION = 60_000, 768
PAIRS = 1_000_000
SIDES = ("preferred", "rejected")


def ours(root: Path, metric: str = "qsd", memory: str | None = None, cap: int | None = MOST) -> None:
    from curate.rank.psi import Psi
    from curate.rank.selection.selection import Limits
    from curate.rank.stage import RankOptions, rank
    from curate.storage.run import Run

    psi = Psi(dict.fromkeys(PSI_SCORERS, 1.0), "percentile")
    rank(Run(root), RankOptions(psi, metric=metric, limits=Limits(per_prompt=cap), memory=memory))


def bare(root: Path) -> None:
    import duckdb

    query = Path(__file__).with_name("rank_bare.sql").read_text()
    connection = duckdb.connect()
    connection.execute(f"create view pairs as from '{root}/pairs.parquet'")
    connection.execute(f"create view scores as from '{root}/scores/*.parquet'")
    copy = f"copy ({query}) to '{root}/bare.parquet' (format parquet, compression zstd, compression_level 1)"
    connection.execute(copy, {"top": TOP, "most": MOST}).fetchall()


def polars(root: Path) -> None:
    import polars as pl

    pairs = pl.read_parquet(
        root / "pairs.parquet", columns=["pair_id", "prompt_id", "image_0_uid", "image_1_uid", "preference"]
    )
    zero = pl.col("preference") == 0
    sided = pairs.filter(pl.col("preference").is_not_null()).select(
        "pair_id",
        "prompt_id",
        preferred_uid=pl.when(zero).then("image_0_uid").otherwise("image_1_uid"),
        rejected_uid=pl.when(zero).then("image_1_uid").otherwise("image_0_uid"),
    )
    key = ["prompt_id", "image_uid"]
    used = pl.concat(sided.select("prompt_id", image_uid=f"{side}_uid") for side in SIDES).unique()
    scores = pl.read_parquet(f"{root}/scores/*.parquet").join(used, on=key, how="semi")
    share = [(pl.col(f"{s}_score").rank("min") - 1) / (pl.len() - 1) for s in PSI_SCORERS]
    scores = scores.with_columns(psi=pl.sum_horizontal(share) / len(share))
    for side in SIDES:
        renamed = scores.rename(
            {"image_uid": f"{side}_uid", "psi": f"psi_{side}"} | {f"{s}_score": f"{s}_{side}" for s in SCORERS}
        )
        sided = sided.join(renamed, on=["prompt_id", f"{side}_uid"])
    margins = {f"{s}_margin": pl.col(f"{s}_preferred") - pl.col(f"{s}_rejected") for s in SCORERS}
    ordered = sided.with_columns(quality=pl.col("psi_preferred") * (1 - pl.col("psi_rejected")), **margins).sort(
        ["quality", "pair_id"], descending=[True, False]
    )
    allowed = pl.int_range(pl.len()).over("prompt_id") < MOST
    ranked = ordered.with_row_index("rank", offset=1).with_columns(allowed=allowed)
    wanted = round(TOP * ranked.height)
    ranked.with_columns(
        percentile=1 - (pl.col("rank") - 1) / (pl.len() - 1),
        selected=pl.col("allowed") & (pl.col("allowed").cast(pl.Int64).cum_sum() <= wanted),
    ).drop("allowed", "psi_preferred", "psi_rejected").write_parquet(
        root / "polars.parquet", compression="zstd", compression_level=1
    )


def pandas(root: Path) -> None:
    import pandas as pd

    pairs = pd.read_parquet(
        root / "pairs.parquet", columns=["pair_id", "prompt_id", "image_0_uid", "image_1_uid", "preference"]
    )
    pairs = pairs[pairs["preference"].notna()]
    zero = pairs["preference"] == 0
    sided = pairs[["pair_id", "prompt_id"]].assign(
        preferred_uid=pairs["image_0_uid"].where(zero, pairs["image_1_uid"]),
        rejected_uid=pairs["image_1_uid"].where(zero, pairs["image_0_uid"]),
    )
    used = pd.concat(
        [sided[["prompt_id", f"{side}_uid"]].set_axis(["prompt_id", "image_uid"], axis=1) for side in SIDES]
    )
    scores = pd.read_parquet(root / "scores").merge(used.drop_duplicates(), on=["prompt_id", "image_uid"])
    ranks = [(scores[f"{s}_score"].rank(method="min") - 1) / (len(scores) - 1) for s in PSI_SCORERS]
    scores["psi"] = sum(ranks) / len(ranks)
    for side in SIDES:
        names = {"image_uid": f"{side}_uid", "psi": f"psi_{side}"} | {f"{s}_score": f"{s}_{side}" for s in SCORERS}
        sided = sided.merge(scores.rename(columns=names), on=["prompt_id", f"{side}_uid"])
    for s in SCORERS:
        sided[f"{s}_margin"] = sided[f"{s}_preferred"] - sided[f"{s}_rejected"]
    sided["quality"] = sided["psi_preferred"] * (1 - sided["psi_rejected"])
    ranked = sided.sort_values(["quality", "pair_id"], ascending=[False, True], ignore_index=True)
    allowed = ranked.groupby("prompt_id").cumcount() < MOST
    ranked["rank"] = np.arange(1, len(ranked) + 1)
    ranked["percentile"] = 1 - (ranked["rank"] - 1) / (len(ranked) - 1)
    ranked["selected"] = allowed & (allowed.cumsum() <= round(TOP * len(ranked)))
    ranked.drop(columns=["psi_preferred", "psi_rejected"]).to_parquet(root / "pandas.parquet", compression="zstd")


def diversity(root: Path) -> None:
    from curate.rank.selection.diversity import choose_diverse

    random = np.random.default_rng(0)
    centres = random.normal(size=(500, DIMENSION)).astype(np.float32)
    rows = 0.7 * centres[random.integers(0, 500, PROMPTS)] + random.normal(size=(PROMPTS, DIMENSION)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    choose_diverse(random.integers(0, PROMPTS, PAIRS), rows, 0.3, round(TOP * PAIRS), lambda pair: True)


def duplicates(root: Path) -> None:
    from curate.rank.selection.diversity import near_duplicate_groups

    rows = np.random.default_rng(0).normal(size=(PROMPTS, DIMENSION)).astype(np.float32)
    near_duplicate_groups(rows / np.linalg.norm(rows, axis=1, keepdims=True), 0.95)


def command(root: Path) -> None:
    """The installed command, its start-up included."""
    line = [sys.executable, "-m", "curate.cli", "rank", "--run", str(root), "--max-per-prompt", str(MOST)]
    subprocess.run(line, check=True, capture_output=True)


WORK: dict[str, Callable[..., None]] = {
    "curate rank": ours,
    "bare query": bare,
    "polars": polars,
    "pandas": pandas,
    "curate rank, the command": command,
    "calibrated": lambda root: ours(root, "calibrated", cap=None),
    "pareto": lambda root: ours(root, "pareto", cap=None),
    "diversity, 60,000 prompts": diversity,
    "near-duplicates, 60,000 prompts": duplicates,
}


def measured(name: str, root: Path, memory: str | None = None) -> tuple[float, float, float]:
    """(seconds, CPU seconds, peak GiB) of one piece of work in a process of its own, imports left out of the times."""
    line = [sys.executable, "-m", "benchmarks.speed.rank", "--one", name, "--root", str(root)]
    line += ["--memory", memory] if memory else []
    done = subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True)
    seconds, cpu_sec, gib = json.loads(done.stdout.splitlines()[-1])
    return seconds, cpu_sec, gib


def with_spill(name: str, root: Path, memory: str) -> tuple[float, float, float, float]:
    """As `measured`, and the most that lay in the run's spill folder, GB, looked at every second."""
    most, ended = [0.0], threading.Event()

    def watch() -> None:
        while not ended.wait(1):
            with contextlib.suppress(FileNotFoundError):  # a file is gone by the time it is asked
                most[0] = max(most[0], sum(path.stat().st_size for path in (root / ".spill").glob("*")) / 1e9)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        return *measured(name, root, memory), most[0]
    finally:
        ended.set()
        watcher.join()


def one(name: str, root: Path, memory: str | None) -> None:
    import curate.rank.stage  # noqa: F401  - loaded before the clock starts, with what it needs

    start, start_cpu = time.perf_counter(), cpu_seconds()
    if memory is not None:
        ours(root, memory=memory)
    else:
        WORK[name](root)
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(json.dumps([time.perf_counter() - start, cpu_seconds() - start_cpu, peak / 2**20]))


def cpu_seconds() -> float:
    """Of this process and of those that it has waited for."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def same_selection(root: Path) -> dict[str, float]:
    """Pairs that we and each other version select, of those that either selects."""
    import duckdb

    return {
        name: duckdb.execute(
            "select count(*) filter (where ours.selected and other.selected) / count(*) "
            f"from '{root}/rankings/default.parquet' as ours full join '{root}/{name}.parquet' as other "
            "using (pair_id) where ours.selected or other.selected"
        ).fetchall()[0][0]
        for name in ("bare", "polars", "pandas")
    }


def compare(rounds: int) -> None:
    """Everything at the size of Pick-a-Pic v2, the rounds taken in turn so that noise falls on all alike."""
    with tempfile.TemporaryDirectory() as folder:
        root = make_run(Path(folder), PAIRS).root
        found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in WORK}
        for number in range(rounds):
            for name in WORK:
                if number == 0 or name in list(WORK)[:5]:
                    found[name].append(measured(name, root))
        measured("curate rank", root)  # the ranking that the others are held against
        same = same_selection(root)
    medians = {name: statistics.median(seconds for seconds, *_ in values) for name, values in found.items()}
    cpu_medians = {name: statistics.median(cpu for _, cpu, _ in values) for name, values in found.items()}
    print(f"{PAIRS:,} pairs; selected by ours and by " + ", ".join(f"{k}: {100 * v:.3f} %" for k, v in same.items()))
    for name, seconds in medians.items():
        ratio, gib = seconds / medians["curate rank"], max(gib for *_, gib in found[name])
        print(f"{name:<34}{seconds:>8.2f} s{ratio:>8.2f}x{cpu_medians[name]:>8.2f} CPU s{gib:>8.2f} GiB")
    print(json.dumps({"benchmark": "rank", "pairs": PAIRS, "seconds": medians, "cpu": cpu_medians, "same": same}))


def scale(millions: list[int], memory: str, folder: Path) -> None:
    """Time by size, and whether it grows in proportion."""
    rows = []
    for million in millions:
        with tempfile.TemporaryDirectory(dir=folder) as name:
            root = make_run(Path(name), million * PAIRS).root
            seconds, cpu_sec, gib, spilled_gb = with_spill("curate rank", root, memory)
        rows.append((million * PAIRS, seconds, cpu_sec, gib, spilled_gb))
        share = rows[0][0] / rows[-1][0]
        growth, cpu_growth = seconds / rows[0][1] * share, cpu_sec / rows[0][2] * share
        print(
            f"{rows[-1][0]:>12,} pairs{seconds:>9.1f} s{growth:>7.2f}x in proportion"
            f"{cpu_sec:>9.1f} CPU s{cpu_growth:>7.2f}x{gib:>7.2f} GiB{spilled_gb:>7.1f} GB spilled",
            flush=True,
        )
    print(json.dumps({"benchmark": "rank scale", "memory": memory, "rows": rows}))


def main() -> None:
    """Print a table, then one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", help="sizes in millions, with commas")
    parser.add_argument("--memory", help="memory of the database, for --scale; 7GB keep the process inside 8 GiB")
    parser.add_argument("--folder", type=Path, help="where --scale keeps its tables: 100 million pairs want 70 GB")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one(options.one, options.root, options.memory)
    elif options.scale:
        scale(
            [int(text) for text in options.scale.split(",")],
            options.memory or "7GB",
            options.folder or Path(tempfile.gettempdir()),
        )
    else:
        compare(options.rounds)


if __name__ == "__main__":
    main()
