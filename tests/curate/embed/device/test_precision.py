"""`--precision auto` is what the models' own numbers say, and a run keeps it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from curate.embed.device.precision import choose_precision, nearest
from curate.errors import UsageError
from curate.models.model_set import ModelSet, load_model_set
from curate.models.towers.clip import ClipTower
from curate.models.towers.precision import DTYPES, half_precisions
from curate.storage.run import Run
from tests.curate.builders import MODELS, Outcome

BOTH = ("fp16", "bf16")


@pytest.fixture(scope="module")
def models() -> ModelSet:
    return load_model_set(MODELS)


def overflowing(monkeypatch: pytest.MonkeyPatch, *precisions: str) -> None:
    embed = ClipTower.embed_images

    def embed_images(self: ClipTower, pixels: torch.Tensor) -> torch.Tensor:
        return embed(self, pixels) * (float("nan") if self.precision in precisions else 1.0)

    monkeypatch.setattr(ClipTower, "embed_images", embed_images)


def test_the_nearest_to_float32_is_taken(models: ModelSet, capsys: pytest.CaptureFixture[str]) -> None:
    """float16 has three bits more than bfloat16: nearer, while nothing overflows."""
    assert nearest(models, models.choose(["clip", "aesthetic", "pickscore"]), "cpu", BOTH) == "fp16"
    told = capsys.readouterr().err
    assert told.startswith("how far the models are from float32 on cpu: ")
    fp16, bf16 = (float(part.split()[0]) for part in told.partition("cpu: ")[2].split(", "))
    assert 0 < 4 * fp16 < bf16


@pytest.mark.parametrize(("precisions", "found"), [(("fp16",), "bf16"), (BOTH, "fp32")])
def test_what_overflows_is_not_taken(
    models: ModelSet, monkeypatch: pytest.MonkeyPatch, precisions: tuple[str, ...], found: str
) -> None:
    overflowing(monkeypatch, *precisions)
    assert nearest(models, models.choose(["clip"]), "cpu", BOTH) == found


def test_scorers_without_a_model_need_no_measure(models: ModelSet) -> None:
    assert nearest(models, models.choose(["nsfw_words"]), "cpu", BOTH) == "fp16"


def test_nothing_is_loaded_for_the_cpu_or_a_stated_one(models: ModelSet) -> None:
    nothing: Any = None
    assert choose_precision("auto", nothing, nothing, ("cpu",)) == "fp32"
    assert {choose_precision(name, nothing, nothing, ("cuda:0",)) for name in DTYPES} == set(DTYPES)
    with pytest.raises(UsageError, match=r"^--precision fp8: choose auto, fp32, bf16, fp16$"):
        choose_precision("fp8", nothing, nothing, ("cpu",))


def test_bfloat16_must_be_every_devices_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A T4 beside an A100: torch would emulate bfloat16 on the T4."""
    current = ["none"]

    class Device:
        def __init__(self, device: str) -> None:
            self.device = device

        def __enter__(self) -> None:
            current.append(self.device)

        def __exit__(self, *_: object) -> None:
            current.pop()

    monkeypatch.setattr("torch.cuda.device", Device)
    monkeypatch.setattr(
        "torch.cuda.is_bf16_supported", lambda including_emulation=True: including_emulation or current[-1] == "cuda:0"
    )
    assert half_precisions(("cuda:0",)) == BOTH
    assert half_precisions(("cuda:0", "cuda:1")) == ("fp16",)


def test_a_run_goes_on_in_the_precision_that_it_was_begun_in(
    curate: Callable[..., Outcome], source_file: Path, tmp_path: Path
) -> None:
    data = ("--manifest", "pickapic_v2", "--models", MODELS, "--source", source_file, "--scorers", "clip")
    options = (*data, "--device", "cpu", "--part-images", 7, "--run", tmp_path / "run")
    assert curate("embed", *options, "--precision", "bf16", "--part-range", "0:1").code == 0
    done = curate("embed", *options)
    assert done.code == 0, done.err
    assert Run(tmp_path / "run").settings()["settings"]["precision"] == "bf16"
    assert "CPU" in done.err
    assert ", bf16" in done.err
