"""A GPU that torch cannot use is said; without one, or when the CPU was asked for, the CPU it is."""

import pytest
import torch

from train.errors import SettingsError
from train.model.device import check_gpu

OLD = (
    "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver by downloading"
    " and installing a new version from the URL: http://www.nvidia.com/Download/index.aspx Alternatively, go to:"
    " https://pytorch.org to install a PyTorch version that has been compiled with your version of the CUDA driver."
)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    return monkeypatch


def failing(words: str) -> object:
    def init() -> None:
        raise RuntimeError(words)

    return init


def test_a_driver_that_is_too_old_is_said(said: pytest.MonkeyPatch) -> None:
    said.setattr(torch.cuda, "init", failing(OLD))
    with pytest.raises(SettingsError) as caught:
        check_gpu()
    assert str(caught.value) == (
        f"The GPU of this machine cannot be used: {OLD} Mend that, or set ACCELERATE_USE_CPU=true to go on without it."
    )
    said.setenv("ACCELERATE_USE_CPU", "true")
    check_gpu()


@pytest.mark.parametrize(
    "words", ["Found no NVIDIA driver on your system. Please check that", "No CUDA GPUs are available"]
)
def test_no_gpu_is_no_fault(said: pytest.MonkeyPatch, words: str) -> None:
    said.setattr(torch.cuda, "init", failing(words))
    check_gpu()


def test_a_gpu_without_bf16_is_said_before_it_emulates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    with pytest.raises(SettingsError, match=r'Tesla T4 computes no bf16, .* set run\.mixed_precision to "fp16"'):
        check_gpu("bf16")
    check_gpu("fp16")
    check_gpu("no")
