"""What a checkpoint holds is what a model has, to the bit; what it is not is one sentence."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

from curate.errors import ModelError
from curate.models.model_set import ModelSet, TowerSpec, load_model_set
from curate.models.towers import load_tower
from curate.models.towers.checkpoints import quiet, unfilled
from tests.curate.builders import MODELS

HELD = {"open_clip": "clip/open_clip_model.safetensors", "transformers_clip": "pickscore/model.safetensors"}
HELD["hpsv2"] = "hpsv2/HPS_v2.1_demo.pt"


@pytest.fixture(scope="module")
def models() -> ModelSet:
    return load_model_set(MODELS)


def folder_of(models: ModelSet) -> Path:
    return (models.folder / "../demo/models").resolve()


def spec_of(family: str, folder: Path) -> TowerSpec:
    options = {
        "open_clip": {"folder": str(folder / "clip")},
        "transformers_clip": {"model": str(folder / "pickscore")},
        "hpsv2": {"folder": str(folder / "hpsv2"), "checkpoint": str(folder / HELD["hpsv2"])},
    }
    return TowerSpec("mine", family, options[family])


def everything(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Weights and buffers, those that no checkpoint holds among them."""
    return dict(module.named_parameters()) | dict(module.named_buffers())


def assert_equal(found: torch.nn.Module, expected: torch.nn.Module) -> None:
    assert everything(found).keys() == everything(expected).keys()
    for name, values in everything(expected).items():
        assert everything(found)[name].dtype == values.dtype, name
        assert torch.equal(everything(found)[name], values), name


class Drawn(TorchDispatchMode):
    """The most random numbers that one operator drew."""

    most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ in ("normal_", "uniform_", "randn"):
            self.most = max(self.most, result.numel())
        return result


@pytest.mark.parametrize("name", ["clip", "hpsv2"])
def test_an_open_clip_tower_is_equal_to_the_one_that_open_clip_loads(models: ModelSet, name: str) -> None:
    location = f"local-dir:{folder_of(models) / name}"
    with quiet():
        expected = open_clip.create_model(location, load_weights=name == "clip")
    if name == "hpsv2":
        expected.load_state_dict(torch.load(folder_of(models) / HELD["hpsv2"], weights_only=True)["state_dict"])
    tower: Any = load_tower(models.towers[name], models.folder, "cpu", "fp32")
    assert "attn_mask" in everything(tower.model)
    assert_equal(tower.model, expected)


@pytest.mark.parametrize(
    "make",
    [
        lambda: BlipVisionModel(BlipVisionConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2)),
        lambda: BlipTextModel(BlipTextConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2), False),
        lambda: open_clip.CLIP(
            16, {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16}, {"width": 32, "heads": 2, "layers": 1}
        ),
    ],
)
def test_weights_are_not_drawn_and_buffers_are_right(make: Callable[[], torch.nn.Module]) -> None:
    with Drawn() as usual:
        expected = make()
    with Drawn() as spared, unfilled():
        model = make()
    assert spared.most < usual.most / 4
    model.load_state_dict(expected.state_dict(), assign=True)
    assert_equal(model, expected)


@pytest.mark.parametrize("family", HELD)
def test_a_missing_and_an_extra_weight_are_one_sentence(models: ModelSet, family: str, tmp_path: Path) -> None:
    folder = shutil.copytree(folder_of(models), tmp_path / "models")
    held = folder / HELD[family]
    state = load_file(held) if held.suffix == ".safetensors" else torch.load(held, weights_only=True)["state_dict"]
    lost = min(name for name in state if name.startswith("vi") and name.endswith("weight"))
    del state[lost]
    state["score_head.weight"] = torch.zeros(1)
    if held.suffix == ".safetensors":
        save_file(state, held, metadata={"format": "pt"})
    else:
        torch.save({"state_dict": state}, held)
    with pytest.raises(ModelError) as raised:
        load_tower(spec_of(family, folder), folder, "cpu", "fp32")
    words = "its checkpoint is not of the architecture: "
    assert words in str(raised.value)
    assert str(raised.value).partition(words)[2] == (
        f"it lacks {lost}; it has score_head.weight that the model does not know"
    )


@pytest.mark.parametrize("family", HELD)
def test_a_checkpoint_of_another_architecture_is_one_sentence(models: ModelSet, family: str, tmp_path: Path) -> None:
    """The same names, each matrix of another width."""
    folder = shutil.copytree(folder_of(models), tmp_path / "models")
    held = folder / HELD[family]
    state = load_file(held) if held.suffix == ".safetensors" else torch.load(held, weights_only=True)["state_dict"]
    wider = {name: torch.zeros(*value.shape[:-1], 3) if value.ndim > 1 else value for name, value in state.items()}
    if held.suffix == ".safetensors":
        save_file(wider, held, metadata={"format": "pt"})
    else:
        torch.save({"state_dict": wider}, held)
    with pytest.raises(ModelError) as raised:
        load_tower(spec_of(family, folder), folder, "cpu", "fp32")
    assert "its checkpoint is not of the architecture: " in str(raised.value)
    if family == "open_clip":  # which looks at position embeddings first
        assert str(raised.value).endswith("text pos_embed width changed!")
    else:
        assert re.search(r" is \([\d, ]+\) where the model has \([\d, ]+\), and \d+ more differ$", str(raised.value))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("family", HELD)
@pytest.mark.parametrize("content", ["empty", "pointer", "cut"])
def test_what_is_no_checkpoint_is_one_sentence(models: ModelSet, family: str, content: str, tmp_path: Path) -> None:
    folder = shutil.copytree(folder_of(models), tmp_path / "models")
    held = folder / HELD[family]
    whole = held.read_bytes()
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64
    held.write_bytes({"empty": b"", "pointer": pointer, "cut": whole[: len(whole) // 2]}[content])
    with pytest.raises(ModelError) as raised:
        load_tower(spec_of(family, folder), folder, "cpu", "fp32")
    assert str(raised.value).endswith("; fetch it again")
    assert "\n" not in str(raised.value)
