"""`curate embed` on the device in each number format and by each decoder, beside float32 on the CPU."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.gpu.plan import Bench, Row
from benchmarks.speed.devices import difference
from curate.embed import EmbedOptions, embed
from curate.embed.decode.decoders import DecodedOnDevice, TorchvisionDecoder
from curate.embed.decode.taken_apart import taken_apart
from curate.models.model_set import load_model_set
from curate.models.scoring import load_scoring
from curate.sources.manifest import BUNDLED
from curate.storage import open_run
from schemas.tables import score_column

SCORERS = ("clip", "pickscore", "aesthetic", "hpsv2")
PAIRS, REHEARSED_PAIRS = 600, 16
BATCH = 64
# Δ over the standard deviation of the scores. float32: without TF32. Half precision: the demo's trained towers on a CPU
# are 0.02 (bf16) and 0.003 (fp16) off. nvJPEG interpolates colour in its own way.
EXACT, BF16, FP16, NVJPEG = 1e-3, 0.1, 0.02, 0.5


def measure(bench: Bench) -> Iterator[Row]:
    """Each path over the same pictures of the demo: JPEGs of 64 px, and towers that were really trained."""
    source = demo_pairs(bench.folder, REHEARSED_PAIRS if bench.rehearse else PAIRS)
    exact = scores_of(bench, source, "exact", device="cpu", precision="fp32")
    for name, bound, options in paths(bench):
        found = scores_of(bench, source, name, device=bench.device, **options)
        yield Row(f"{name}: Δ of scores", difference(found, exact)["delta"], at_most=bound)
    yield from on_the_device(bench, source)


def paths(bench: Bench) -> list[tuple[str, float, dict[str, Any]]]:
    """Name, bound and options of each; the CPU has no nvJPEG and takes its next best, and compiles nothing."""
    nvjpeg = "scaled" if bench.rehearse else "nvjpeg"
    found: list[tuple[str, float, dict[str, Any]]] = [
        ("float32", EXACT, {"precision": "fp32"}),
        ("bf16", BF16, {"precision": "bf16"}),
        ("fp16", FP16, {"precision": "fp16"}),
        (nvjpeg, NVJPEG, {"precision": "fp32", "decode": nvjpeg}),
        ("decoded in threads", EXACT, {"precision": "fp32", "decode_processes": 0}),
        ("batch found by measuring", EXACT, {"precision": "fp32", "batch_images": None}),
    ]
    if not bench.rehearse:
        found.append(("two workers on one device", EXACT, {"precision": "fp32", "workers": 2}))
        found.append(("compiled", EXACT, {"precision": "fp32", "compiled": True}))
    return found


def demo_pairs(folder: Path, pairs: int) -> Path:
    """The demo's first rows, as a Parquet of their own."""
    first = sorted((BUNDLED / "demo" / "pairs").glob("*.parquet"))[0]
    path = folder / "demo.parquet"
    pq.write_table(pq.read_table(first).slice(0, pairs), path, row_group_size=100)
    return path


def scores_of(bench: Bench, source: Path, name: str, **options: Any) -> dict[str, np.ndarray]:
    """Scorer -> every score of a run, in one order."""
    run = open_run(bench.folder / name.replace(" ", "-"))
    embed(run, EmbedOptions(source=(str(source),), scorers=SCORERS, **({"batch_images": BATCH} | options)))
    table = run.folder.read_table("scores").sort_by([("image_uid", "ascending"), ("prompt_id", "ascending")])
    return {scorer: table[score_column(scorer)].to_numpy() for scorer in SCORERS}


def on_the_device(bench: Bench, source: Path) -> Iterator[Row]:
    """How many of the preprocessings take a picture where the decoder left it: on the device, not by way of Pillow."""
    models = load_model_set("demo")
    scoring = load_scoring(models, models.choose(list(SCORERS)), bench.device, "fp32")
    (picture,) = TorchvisionDecoder(bench.device)([pq.read_table(source)["jpg_0"][0].as_py()])
    assert isinstance(picture, DecodedOnDevice)
    known = [taken_apart(one) for one in scoring.preprocessors.values()]
    stays = [steps is not None and steps(picture.image).device.type == bench.device for steps in known]
    yield Row("preprocessings that stay on the device after nvJPEG", float(np.mean(stays)), "of all", at_least=1.0)
