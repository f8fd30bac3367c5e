"""The report's size and time to open, in Chromium: a gallery of 1,000 pairs with pictures that all differ.

python -m benchmarks.speed.report [--pairs 1000] [--rounds 3] [--noise]
Pictures are smooth with grain, so that their thumbnails weigh what photographs' do; --noise makes the heaviest ones.
"""

import argparse
import io
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from curate import cli
from curate.report import ReportOptions, report
from curate.storage.run import Run

SIDE_PX = 512
GRAIN = np.random.default_rng(0).normal(0, 14, (SIDE_PX, SIDE_PX, 3)).astype(np.int16)
# When the page has loaded; the first filter pass is part of it. Then: one more pass, and a jump to the last card.
MEASURE = """async () => {
    const frame = () => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
    const loaded = performance.getEntriesByType("navigation")[0].loadEventEnd;
    let start = performance.now();
    const filter = document.getElementById("filter");
    filter.value = "1"; filter.dispatchEvent(new Event("input")); await frame();
    const filtered = performance.now() - start;
    filter.value = ""; filter.dispatchEvent(new Event("input")); await frame();
    start = performance.now();
    [...document.querySelectorAll(".card")].at(-1).scrollIntoView(); await frame();
    return { loaded, filtered, jumped: performance.now() - start };
}"""


def picture_bytes(seed: int, noise: bool) -> bytes:
    """A JPEG: colour fields with a grain of sensor noise, or noise alone."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (9, 9, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC), np.int16)
    pixels = np.roll(GRAIN, seed * 7919) * (8 if noise else 1) + (128 if noise else smooth)
    buffer = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def rows(pairs: int, noise: bool) -> Iterator[dict[str, Any]]:
    """Pairs in Pick-a-Pic's columns, every picture another one."""
    for i in range(pairs):
        sides = {f"image_{side}_uid": f"image-{2 * i + side}" for side in (0, 1)}
        jpegs = {f"jpg_{side}": picture_bytes(2 * i + side, noise) for side in (0, 1)}
        words = {"caption": f"a detailed picture of the number {i // 4}, soft light, in the style of the day"}
        label = {"label_0": float(i % 2), "label_1": float(1 - i % 2), "has_label": True}
        yield words | sides | jpegs | label | {"model_0": "a", "model_1": "b", "user_id": i % 9, "ranking_id": i}


def make_run(folder: Path, pairs: int, noise: bool) -> Path:
    """A run over such pairs, scored by the demo's models and ranked."""
    source = folder / "pairs.parquet"
    pq.write_table(pa.Table.from_pylist(list(rows(pairs, noise))), source, row_group_size=100)
    embed = ["--manifest", "pickapic_v2", "--models", "demo", "--source", str(source), "--run", str(folder / "run")]
    cli.app(["embed", *embed], standalone_mode=False)
    cli.app(["rank", "--run", str(folder / "run"), "--top", "0.2"], standalone_mode=False)
    return folder / "run"


def open_page(page_file: Path, rounds: int) -> dict[str, float]:
    """Medians in milliseconds over fresh browsers."""
    from playwright.sync_api import sync_playwright

    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    found: list[dict[str, float]] = []
    with sync_playwright() as play:
        for _ in range(rounds):
            browser = play.chromium.launch(executable_path=program, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.goto(page_file.as_uri())
            found.append(page.evaluate(MEASURE))
            browser.close()
    return {name: statistics.median(item[name] for item in found) for name in found[0]}


def main() -> None:
    """Print a table, then one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--noise", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(Path(folder), options.pairs, options.noise)
        start = time.perf_counter()
        written = report(Run(run), ReportOptions(gallery=options.pairs))
        seconds = time.perf_counter() - start
        took = open_page(run / "report.html", options.rounds)
    print(f"{written['gallery_pairs']:,} of {options.pairs:,} pairs, {written['pictures']:,} pictures")
    print(f"{'written in':<28}{seconds:>9.1f} s")
    print(f"{'size':<28}{written['page_bytes'] / 1e6:>9.1f} MB")
    names = {"loaded": "opened", "filtered": "filtered", "jumped": "jumped to the last pair"}
    for key, name in names.items():
        print(f"{name:<28}{took[key]:>9.0f} ms")
    numbers = {key: written[key] for key in ("gallery_pairs", "pictures", "page_bytes")}
    print(json.dumps({"benchmark": "report", **numbers, "seconds": seconds, "ms": took}))


if __name__ == "__main__":
    main()
