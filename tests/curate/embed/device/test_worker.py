"""A device that fails is one sentence, and the run goes on when it is started again."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from curate.embed.device.worker import EmbedWork
from curate.embed.options import ComputeOptions
from curate.embed.stage import embed_source
from curate.errors import DeviceError, ModelError
from curate.models.batch_limit import device_failed
from curate.models.model_set import TowerSpec, load_model_set
from curate.models.scoring import Scoring, load_scoring
from curate.models.towers import load_tower
from curate.sources.manifest import load_manifest
from curate.sources.opening import open_source
from curate.storage.run import Run
from tests.curate.builders import MODELS

GONE = (
    "CUDA error: uncorrectable ECC error encountered\nCUDA kernel errors might be asynchronously reported at some "
    "other API call, so the stacktrace below might be incorrect."
)
OPTIONS = ComputeOptions("cpu", "fp32", batch_images=4, part_images=7)


@pytest.fixture
def scoring() -> Scoring:
    models = load_model_set(MODELS)
    return load_scoring(models, models.choose(["clip", "aesthetic"]), "cpu", "fp32")


def raising(error: Exception) -> Any:
    def raises(*_: object, **__: object) -> Any:
        raise error

    return raises


@pytest.mark.parametrize("error", [torch.AcceleratorError(GONE), RuntimeError(GONE)], ids=["torch", "a library"])
def test_a_device_that_vanishes_in_the_middle(
    tmp_path: Path, source_file: Path, scoring: Scoring, monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    source, run = open_source(load_manifest("pickapic_v2"), None, [str(source_file)]), Run(tmp_path)
    tower: Any = scoring.towers["clip"]
    embed = tower.image_features
    calls: Iterator[int] = iter(range(100))
    monkeypatch.setattr(tower, "image_features", lambda pixels: embed(pixels) if next(calls) < 3 else raising(error)())
    with pytest.raises(DeviceError) as raised:
        embed_source(run, source, scoring, OPTIONS)
    assert str(raised.value) == (
        "cpu failed (CUDA error: uncorrectable ECC error encountered); the parts that are written stand: run again to "
        "go on, by another --device where this one is gone"
    )
    monkeypatch.undo()
    summary = embed_source(run, source, scoring, OPTIONS)
    assert summary["scored_images"] == 21
    assert 0 < summary["parts_computed"] < summary["parts"]


def test_a_device_that_is_gone_is_not_taken_for_bad_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curate.models.towers.hpsv2.load_hpsv2", raising(torch.AcceleratorError(GONE)))
    with pytest.raises(torch.AcceleratorError):
        load_tower(TowerSpec("hpsv2", "hpsv2", {}), Path(), "cpu", "fp32")
    monkeypatch.setattr("curate.embed.device.worker.torch.zeros", raising(RuntimeError("No CUDA GPUs are available")))
    nothing: Any = None
    work = EmbedWork(nothing, nothing, nothing, {}, OPTIONS, {}, True)
    with pytest.raises(DeviceError, match=r"^cuda:3 failed \(No CUDA GPUs are available\); the parts"):
        work("cuda:3", iter(()), lambda _: None)


def test_memory_that_weights_do_not_find_is_said_as_that(monkeypatch: pytest.MonkeyPatch) -> None:
    full = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity")
    monkeypatch.setattr("curate.models.towers.hpsv2.load_hpsv2", raising(full))
    words = r"cannot be loaded: out of memory \(CUDA out of memory\); free some, or use fewer --scorers at once$"
    with pytest.raises(ModelError, match=words):
        load_tower(TowerSpec("hpsv2", "hpsv2", {}), Path(), "cpu", "fp32")


@pytest.mark.parametrize(
    ("words", "failed"),
    [
        ("CUDA error: unspecified launch failure", True),
        ("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`", True),
        ("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", True),
        ("CUDA error: no kernel image is available for execution on the device", True),
        ("Triton Error [CUDA]: device-side assert triggered", True),
        ("CUDA error: out of memory", False),
        ("mat1 and mat2 shapes cannot be multiplied", False),
    ],
)
def test_what_a_device_says(words: str, failed: bool) -> None:
    assert device_failed(RuntimeError(words)) is failed
