"""Out of memory halves a batch and loses nothing; the batch that `auto` finds; compiled towers."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from curate.embed.device.batch_size import compile_towers, find_batch, largest_useful, made_up, make_ready, probe
from curate.embed.options import ComputeOptions, parse_batch
from curate.embed.stage import embed_source
from curate.errors import ModelError, UsageError
from curate.models.batch_limit import BatchLimit, out_of_memory
from curate.models.model_set import load_model_set
from curate.models.scoring import Scoring, load_scoring, rows_of
from curate.models.towers.compiled import StaticBatch
from curate.sources.manifest import load_manifest
from curate.sources.opening import open_source
from curate.storage.run import Run
from tests.curate.builders import MODELS

GIVEN = torch.OutOfMemoryError(
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 1 MiB of which 0 bytes is free."
)


@pytest.fixture
def scoring() -> Scoring:
    models = load_model_set(MODELS)
    return load_scoring(models, models.choose(["clip", "pickscore", "aesthetic"]), "cpu", "fp32")


def too_many(work: Callable[[Any], Any], most: int, sizes: list[int]) -> Callable[[Any], Any]:
    """`work` on a device whose memory holds `most` rows."""

    def limited(rows: Any) -> Any:
        sizes.append(len(rows))
        if len(rows) > most:
            raise GIVEN
        return work(rows)

    return limited


def scores_of(root: Path) -> dict[tuple[str, str], list[float]]:
    rows = pq.read_table(root / "scores").to_pylist()
    return {(row.pop("prompt_id"), row.pop("image_uid")): list(row.values()) for row in rows}


def test_out_of_memory_in_a_run_costs_no_image_and_changes_no_score(
    tmp_path: Path,
    source_file: Path,
    scoring: Scoring,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = open_source(load_manifest("pickapic_v2"), None, [str(source_file)])
    options = ComputeOptions("cpu", "fp32", batch_images=16, part_images=12)
    embed_source(Run(tmp_path / "whole"), source, scoring, options)
    capsys.readouterr()
    sizes: list[int] = []
    tower: Any = scoring.towers["pickscore"]
    monkeypatch.setattr(tower, "image_features", too_many(tower.image_features, 4, sizes))
    summary = embed_source(Run(tmp_path / "short"), source, scoring, options)
    assert summary["images"] == summary["scored_images"] == 21
    tried, held = sizes[:2], sizes[2:]
    assert tried == [11, 5]  # the first part, at once and halved
    assert max(held) == 2  # halved again, for good
    assert sum(held) == 21
    whole, short = scores_of(tmp_path / "whole"), scores_of(tmp_path / "short")
    assert whole.keys() == short.keys()
    for key, values in whole.items():
        np.testing.assert_allclose(short[key], values, rtol=1e-5, atol=1e-6)
    said = [line for line in capsys.readouterr().err.splitlines() if "memory" in line]
    assert said == ["out of memory with 11 pictures at once: going on with 5, and with fewer if need be"]


def test_the_batch_is_no_setting_of_a_run(tmp_path: Path, source_file: Path, scoring: Scoring) -> None:
    source = open_source(load_manifest("pickapic_v2"), None, [str(source_file)])
    embed_source(Run(tmp_path), source, scoring, ComputeOptions("cpu", "fp32", batch_images=16, part_images=12))
    again = embed_source(Run(tmp_path), source, scoring, ComputeOptions("cpu", "fp32", batch_images=5, part_images=12))
    assert again["parts_computed"] == 0


def test_prompts_too_are_halved(scoring: Scoring, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    texts = [f"a red circle {index}" for index in range(9)]
    whole = scoring.embed_prompts(texts)
    tower: Any = scoring.towers["clip"]
    sizes: list[int] = []
    monkeypatch.setattr(tower, "embed_prompts", too_many(tower.embed_prompts, 2, sizes))
    found = scoring.embed_prompts(texts)
    assert sizes == [9, 4, 2, 2, 2, 2, 1]
    for name, values in whole.items():
        torch.testing.assert_close(found[name], values, atol=1e-5, rtol=0)
    assert capsys.readouterr().err.startswith("out of memory with 9 prompts at once: going on with 4, ")


def test_pieces_come_together_in_any_order_of_the_scores(scoring: Scoring) -> None:
    pictures, matched, prompts = made_up(scoring, "cpu", 5)
    shuffled = [matched[index] for index in (7, 2, 9, 0, 4, 1, 3, 8)]
    _, whole = scoring.score_pictures(pictures, shuffled, prompts)
    scoring.limit.size = 2
    embeddings, pieces = scoring.score_pictures(pictures, shuffled, prompts)
    assert all(len(values) == 5 for values in embeddings.values())
    for name, values in whole.items():
        np.testing.assert_allclose(pieces[name], values, rtol=1e-5, atol=1e-6)


def test_one_picture_that_does_not_fit_is_one_sentence(scoring: Scoring, monkeypatch: pytest.MonkeyPatch) -> None:
    tower: Any = scoring.towers["clip"]
    monkeypatch.setattr(tower, "image_features", too_many(tower.image_features, 0, []))
    message = (
        "out of memory with one of the pictures at a time (CUDA out of memory); "
        "free some, use --precision bf16, or fewer --scorers at once"
    )
    with pytest.raises(ModelError, match=f"^{re.escape(message)}$"):
        scoring.score_pictures(*made_up(scoring, "cpu", 3))


def test_another_failure_is_not_taken_for_memory() -> None:
    def work(start: int, stop: int) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        BatchLimit(4).run(8, work)


@pytest.mark.parametrize(
    "words",
    [
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 15.00 GiB",
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call",
        "CUDA driver error: out of memory",
        "CUDA ran out of memory outside PyTorch's allocator. If this workload uses many dynamic shapes, cuDNN may need",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "FIND was unable to find an engine to execute this computation",
        "GET was unable to find an engine to execute this computation",
        "Unable to find a valid cuDNN algorithm to run convolution",
        "Triton Error [CUDA]: out of memory",
        "nvjpegDecode failed: 5",
        "Failed to initialize batch decoding: 5",
        "Failed to decode batch: 5",
        "Failed to create device buffer: 5",
        "Failed to create nvjpeg decoder state: 5",
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to",
    ],
)
def test_whoever_refuses_memory_is_understood(words: str) -> None:
    def work(start: int, stop: int) -> range:
        if stop - start > 2:
            raise RuntimeError(words)
        return range(start, stop)

    assert [list(piece) for piece in BatchLimit().run(5, work)] == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize(
    "words",
    [
        "CUDA error: unspecified launch failure",
        "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
        "Failed to decode batch: 6",
        "out of resource: shared memory, Required: 114688, Hardware limit: 101376",
    ],
)
def test_other_failures_of_a_device_are_not_taken_for_memory(words: str) -> None:
    assert not out_of_memory(RuntimeError(words))


@pytest.mark.parametrize(
    ("rates", "found"),
    [
        ({16: 100.0, 32: 180.0, 64: 300.0, 128: 305.0}, 64),  # no gain
        ({16: 100.0, 32: 180.0, 64: 300.0}, 64),  # 128 does not fit
        ({4: 30.0}, 4),  # 16 does not fit, 8 does not either
        ({2**power: 2.0**power for power in range(4, 20)}, 1024),  # always a gain
    ],
)
def test_the_batch_that_is_found(rates: dict[int, float], found: int) -> None:
    def rate(images: int) -> float:
        if images not in rates:
            raise GIVEN
        return rates[images]

    assert largest_useful(rate) == found


def test_nothing_fits() -> None:
    def rate(images: int) -> float:
        raise GIVEN

    with pytest.raises(ModelError, match=r"^out of memory with one picture at a time; free some, or use"):
        largest_useful(rate)


def test_the_probe_runs_every_tower_and_the_cpu_has_a_fixed_batch(
    scoring: Scoring, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    assert find_batch(scoring, "cpu") == make_ready(scoring, "cpu", None, False) == scoring.limit.size == 64
    assert make_ready(scoring, "cpu", 7, False) == scoring.limit.size == 7
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("curate.embed.device.batch_size.PROBE_SEC", 0.0)
    monkeypatch.setattr("curate.embed.device.batch_size.MOST_IMAGES", 64)
    tower: Any = scoring.towers["clip"]
    monkeypatch.setattr(tower, "image_features", too_many(tower.image_features, 32, []))
    assert largest_useful(lambda images: probe(scoring, "cpu", images)) in (16, 32)


@pytest.mark.parametrize("wanted", ["0", "-1", "1.5", "many", "", "²"])
def test_no_number_of_pictures(wanted: str) -> None:
    with pytest.raises(UsageError, match=f"^--batch {re.escape(wanted)}: give auto, or a whole number of pictures"):
        parse_batch(wanted)


def test_numbers_of_pictures() -> None:
    assert (parse_batch("auto"), parse_batch("1"), parse_batch("256")) == (None, 1, 256)


def test_compiled_towers_score_the_same_and_a_short_batch_is_not_compiled_anew(
    scoring: Scoring, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compiled by Dynamo alone: the graphs are captured, without minutes of the C++ compiler."""
    capture = torch.compile
    monkeypatch.setattr("torch.compile", lambda function, **options: capture(function, backend="eager", **options))
    pictures, matched, prompts = made_up(scoring, "cpu", 16)
    embeddings, plain = scoring.score_pictures(pictures, matched, prompts)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    make_ready(scoring, "cpu", 16, compiled=True)
    assert re.search(r"^compiled 2 towers in \d+ s$", capsys.readouterr().err, re.MULTILINE)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert graphs >= 4  # two towers, a whole batch and an eighth of it
    found, compiled = scoring.score_pictures(pictures, matched, prompts)
    short, _ = scoring.score_pictures(rows_of(pictures, 0, 3), matched[:6], prompts)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs
    for name, values in embeddings.items():
        torch.testing.assert_close(found[name], values, atol=1e-5, rtol=0)
        torch.testing.assert_close(short[name], values[:3], atol=1e-5, rtol=0)
    for name, scores in plain.items():
        np.testing.assert_allclose(compiled[name], scores, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("images", "computed"), [(1024, 1024), (1500, 1536), (1536, 1536), (1100, 1152), (1024 + 1023, 2048), (3, 128)]
)
def test_the_end_of_a_part_is_hardly_filled_up(images: int, computed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In whole batches 1,500 pictures would be 2,048."""
    seen: list[int] = []

    def count(pixels: torch.Tensor) -> torch.Tensor:
        seen.append(len(pixels))
        return pixels.flatten(1)

    monkeypatch.setattr("torch.compile", lambda function, **_: function)
    static, pixels = StaticBatch(count, BatchLimit(1024)), torch.arange(images).float().reshape(-1, 1, 1, 1)
    found = torch.cat([static(pixels[start : start + 1024]) for start in range(0, images, 1024)])
    assert torch.equal(found, pixels.flatten(1))
    assert sum(seen) == computed
    assert set(seen) <= {128, 1024}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_compiler_sees_one_kind_of_tensor(layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def compiled(pixels: torch.Tensor) -> torch.Tensor:
        seen.append((pixels.shape, pixels.stride(), pixels.is_inference()))
        return pixels.mean(dim=(1, 2, 3))

    monkeypatch.setattr("torch.compile", lambda function, **_: function)
    static = StaticBatch(compiled, BatchLimit(16))
    pixels = torch.randn(16, 3, 6, 6).to(memory_format=layout)
    with torch.inference_mode():
        whole = static(pixels)
        assert torch.equal(static(pixels + 0), whole)
        assert torch.equal(static(pixels[:3]), whole[:3])
        assert torch.equal(static((pixels + 0)[:1]), whole[:1])
    assert {shape for shape, *_ in seen} == {(16, 3, 6, 6), (2, 3, 6, 6)}
    assert len(set(seen)) == 2


def test_a_compiler_that_fails_is_one_sentence(scoring: Scoring, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler(function: Any, **options: Any) -> Any:
        def run(*_: Any) -> Any:
            raise FileNotFoundError("no C compiler. Install one")

        return run

    monkeypatch.setattr("torch.compile", no_compiler)
    with pytest.raises(ModelError, match=r"^torch\.compile fails here \(no C compiler\); run without --compile$"):
        compile_towers(scoring, "cpu", 4)
