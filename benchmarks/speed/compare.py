"""`curate compare` on a large set of sampled pictures, and how fast its page opens in Chromium.

    python -m benchmarks.speed.compare [--models 5] [--prompts 1632] [--images 4] [--px 64]

The tables are synthetic, as `curate embed` writes them: five scorers, three towers of the published sizes, twelve
categories. The pictures are small and all differ; every picture is read, shrunk and put into the page as real ones are.
cpu_seconds is what counts where other work shares the cores.
"""

import argparse
import hashlib
import io
import itertools
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from curate.compare.stage import CompareOptions, compare
from curate.sources.manifest import load_manifest
from curate.storage.run import Run
from curate.storage.tables import write_table
from schemas import tables

SCORERS = ("clip", "pickscore", "aesthetic", "hpsv2", "image_reward")
TOWERS = {"clip": 768, "pickscore": 1024, "hpsv2": 1024}
CATEGORIES = 12
PART_IMAGES = 1024
ROW_GROUP = 256
MOST_SECONDS, MOST_OPEN_SECONDS, MOST_PAGE_MB = 20, 2, 30


def picture_bytes(random: np.random.Generator, px: int) -> bytes:
    """A smooth random PNG."""
    coarse = Image.fromarray(random.integers(0, 256, (5, 5, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    coarse.resize((px, px), Image.Resampling.BICUBIC).save(buffer, "PNG")
    return buffer.getvalue()


def sha256(path: Path) -> str:
    """Of a whole file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_pictures(folder: Path, models: int, prompts: int, images: int, px: int) -> list[dict[str, Any]]:
    """The pairs as `train sample` lays them out; each picture a file."""
    random, rows = np.random.default_rng(0), []
    for prompt, number in itertools.product(range(prompts), range(images)):
        names = [f"images/{model}/{prompt:05d}-{number}.png" for model in range(models)]
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(picture_bytes(random, px))
        for one, two in itertools.combinations(range(models), 2):
            sides = {f"image_{side}_uid": names[model] for side, model in enumerate((one, two))}
            sides |= {f"image_{side}_path": names[model] for side, model in enumerate((one, two))}
            sides |= {f"image_{side}_model": f"model-{model}" for side, model in enumerate((one, two))}
            words = f"a picture of the number {prompt}, in the style of the day, with soft light from the left"
            rows.append({"prompt": words, "category": f"category {prompt % CATEGORIES}", "seed": number, **sides})
    pq.write_table(pa.Table.from_pylist(rows, tables.SAMPLED_PAIRS), folder / "pairs.parquet", row_group_size=4096)
    columns = "".join(f'{name} = "{name}"\n' for name in tables.SAMPLED_PAIRS.names if name != "seed")
    text = f'name = "sampled"\n[splits.sampled]\nfiles = ["pairs.parquet"]\n[columns]\n{columns}'
    (folder / "manifest.toml").write_text(text)
    return rows


def write_run(folder: Path, rows: list[dict[str, Any]]) -> Run:
    """A run as `curate embed` leaves it, its scores and embeddings random, each model's a little better."""
    run, random = Run(folder / "run"), np.random.default_rng(1)
    prompts = {text: f"p{place:05d}" for place, text in enumerate(dict.fromkeys(row["prompt"] for row in rows))}
    pairs = [
        {
            "pair_id": f"{place:08d}", "prompt_id": prompts[row["prompt"]], "split": "sampled", "source_file": "f",
            "source_row_group": 0, "source_row": place, "preference": None, "annotator_id": None,
            **{name: row[name] for name in row if name in tables.PAIRS.names},
        }
        for place, row in enumerate(rows)
    ]  # fmt: skip
    write_table(pa.Table.from_pylist(pairs, schema=tables.PAIRS), run.pairs, tables.PAIRS)
    text = pa.table({"prompt_id": list(prompts.values()), "prompt": list(prompts)})
    write_table(text, run.table("prompts") / "p.parquet", tables.PROMPTS)
    write_table(tables.DROPPED.empty_table(), run.table("dropped") / "plan.parquet", tables.DROPPED)
    first: dict[str, tuple[int, int]] = {}
    for place, row in enumerate(rows):
        for side in (0, 1):
            first.setdefault(row[f"image_{side}_uid"], (place, side))
    uids = list(first)
    for part, start in enumerate(range(0, len(uids), PART_IMAGES)):
        _write_part(run, part, uids[start : start + PART_IMAGES], first, rows, prompts, folder, random)
    manifest = load_manifest(str(folder / "manifest.toml"))
    file = str(folder / "pairs.parquet")
    run.claim({"manifest": manifest.settings(), "split": "sampled", "files": {file: Path(file).stat().st_size}}, {})
    run.mark_finished({"judged": False, "pairs": len(rows), "scorers": list(SCORERS), "dataset": "sampled"})
    return run


def _write_part(
    run: Run,
    part: int,
    uids: list[str],
    first: dict[str, tuple[int, int]],
    rows: list[dict[str, Any]],
    prompts: dict[str, str],
    folder: Path,
    random: np.random.Generator,
) -> None:
    places = [first[uid] for uid in uids]
    models = np.array([int(uid.split("/")[1]) for uid in uids])
    columns: dict[str, Any] = {
        "image_uid": uids, "sha256": [sha256(folder / uid) for uid in uids], "size_bytes": [0] * len(uids),
        "width": [64] * len(uids), "height": [64] * len(uids),
        "format": ["PNG"] * len(uids), "source_file": [str(folder / "pairs.parquet")] * len(uids),
        "source_row_group": [place // 4096 for place, _ in places],
        "source_row": [place % 4096 for place, _ in places], "source_side": [side for _, side in places],
    }  # fmt: skip
    for tower, dimension in TOWERS.items():
        values = random.normal(size=(len(uids), dimension)).astype(np.float16)
        columns[f"{tower}_embedding"] = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), dimension)
    schema = tables.with_embeddings(tables.IMAGES, TOWERS, pa.float16())
    write_table(pa.table(columns), run.table("images") / f"part-{part:05d}.parquet", schema)
    scores: dict[str, Any] = {"prompt_id": [prompts[rows[place]["prompt"]] for place, _ in places], "image_uid": uids}
    for scorer in SCORERS:
        scores[f"{scorer}_score"] = (random.normal(size=len(uids)) + 0.1 * models).astype(np.float32)
    schema = tables.with_scores(tables.SCORES, list(SCORERS))
    write_table(pa.table(scores), run.table("scores") / f"part-{part:05d}.parquet", schema)


def opening_seconds(page: Path) -> float | None:
    """Until the page has loaded and its first pictures are drawn, in Chromium; None where there is none."""
    from tests.curate.chromium import PROGRAM, browser_page, until

    if PROGRAM is None:
        return None
    with browser_page(viewport={"width": 1280, "height": 900}) as tab:
        start = time.perf_counter()
        tab.goto(page.as_uri(), wait_until="load")
        tab.evaluate("document.getElementById('gallery').scrollIntoView()")  # pictures load as they come near
        until(tab, "document.querySelector('.prompt img').naturalWidth > 0")
        return time.perf_counter() - start


def main() -> None:
    """Prints a table, then one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("models", 5), ("prompts", 1632), ("images", 4), ("px", 64)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        run = write_run(folder, write_pictures(folder, given.models, given.prompts, given.images, given.px))
        start, cpu = time.perf_counter(), time.process_time()
        report = compare(run, CompareOptions())
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
        opened = opening_seconds(Path(report["page"]))
    found = {
        **vars(given),
        "pairs": report["pairs"],
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu_seconds, 2),
        "page_mb": round(report["page_bytes"] / 1e6, 1),
        "pictures_on_the_page": report["pictures"],
        "picture_px": report["picture_px"],
        "opening_seconds": None if opened is None else round(opened, 2),
    }
    limits = {"seconds": MOST_SECONDS, "page_mb": MOST_PAGE_MB, "opening_seconds": MOST_OPEN_SECONDS}
    for name, value in found.items():
        print(f"{name:<24}{value!s:>10}" + (f"   at most {limits[name]}" if name in limits else ""))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
