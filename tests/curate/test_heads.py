"""Heads against the layers they fold, and the published aesthetic head on rated embeddings."""

from pathlib import Path

import numpy as np
import pytest
import torch

from curate.errors import ModelError
from curate.heads import CosineHead, fold_linear_layers, load_aesthetic_head

AESTHETIC = Path(__file__).parents[3] / "shared" / "data" / "aesthetic"
LAION_LAYERS = {0: (768, 1024), 2: (1024, 128), 4: (128, 64), 6: (64, 16), 7: (16, 1)}


def laion_state(seed: int = 0) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    state = {}
    for index, (inputs, outputs) in LAION_LAYERS.items():
        state[f"layers.{index}.weight"] = torch.randn(outputs, inputs, generator=random) / inputs**0.5
        state[f"layers.{index}.bias"] = torch.randn(outputs, generator=random)
    return state


def test_folded_head_equals_the_layers_in_turn() -> None:
    state = laion_state()
    images = torch.nn.functional.normalize(torch.randn(100, 768, generator=torch.Generator().manual_seed(1)), dim=1)
    values = images
    for index in LAION_LAYERS:
        values = values @ state[f"layers.{index}.weight"].T + state[f"layers.{index}.bias"]
    torch.testing.assert_close(fold_linear_layers(state)(images, images), values.squeeze(1), atol=1e-5, rtol=1e-5)


def test_layers_apply_in_number_order_not_alphabetical_order() -> None:
    state = {"layers.10.weight": torch.tensor([[1.0]]), "layers.10.bias": torch.tensor([5.0])}
    state |= {"layers.2.weight": torch.tensor([[3.0, 1.0]]), "layers.2.bias": torch.tensor([1.0])}
    head = fold_linear_layers(state)
    assert head(torch.tensor([[1.0, 0.0]]), torch.zeros(1, 2)).item() == pytest.approx(9.0)


def test_cosine_head_scales() -> None:
    images = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    prompts = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    torch.testing.assert_close(CosineHead(100.0)(images, prompts), torch.tensor([0.0, 60.0]))


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, "no '…weight' among its keys"),
        (
            {"layers.0.weight": torch.zeros(4, 8), "layers.0.bias": torch.zeros(4)},
            "the last layer gives 4 numbers, a score is one",
        ),
        (
            {
                "layers.0.weight": torch.zeros(4, 8),
                "layers.0.bias": torch.zeros(4),
                "layers.2.weight": torch.zeros(1, 5),
                "layers.2.bias": torch.zeros(1),
            },
            "layers.2.weight takes 5 numbers, the layer before gives 4",
        ),
    ],
)
def test_other_layouts_are_refused(state: dict[str, torch.Tensor], message: str, tmp_path: Path) -> None:
    path = tmp_path / "head.pth"
    torch.save(state, path)
    with pytest.raises(ModelError) as raised:
        load_aesthetic_head(path)
    assert str(raised.value) == f"{path} is not an aesthetic head in LAION's layout: {message}"


@pytest.mark.parametrize("name", ["sac+logos+ava1-l14-linearMSE.pth", "sa_0_4_vit_l_14_linear.pth"])
def test_published_heads_rise_over_rated_embeddings(name: str) -> None:
    if not AESTHETIC.is_dir():
        pytest.skip(f"the published heads are not at {AESTHETIC}")
    head = load_aesthetic_head(AESTHETIC / name)
    means = []
    for rating in range(10):
        rows = torch.from_numpy(np.load(AESTHETIC / "vit_l_14_embeddings" / f"rating{rating}.npy")).float()
        unit = torch.nn.functional.normalize(rows.reshape(-1, 768), dim=1)
        means.append(head(unit, unit).mean().item())
    correlation = np.corrcoef(range(10), means)[0, 1]
    assert correlation > 0.9
    assert means[9] > means[0] + 1.0
