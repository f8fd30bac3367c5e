"""Heads against the layers they stand for, the published aesthetic head on rated embeddings, lists of words."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from curate.errors import ModelError
from curate.models.heads import CosineHead, fold_linear_layers, load_words_head, read_head
from curate.models.model_set import ScorerSpec, load_model_set
from curate.models.nsfw import nsfw_head
from curate.models.scorers import Matched
from curate.models.scoring import load_scoring
from curate.sources.manifest import BUNDLED
from tests.demo import ROOT

AESTHETIC = ROOT.parent / "shared" / "data" / "aesthetic"
LAION_LAYERS = {0: (768, 1024), 2: (1024, 128), 4: (128, 64), 6: (64, 16), 7: (16, 1)}


def rows(images: torch.Tensor, prompts: torch.Tensor | None = None) -> Matched:
    """Matched rows of embeddings alone."""
    return Matched([""] * len(images), (images, images if prompts is None else prompts))


def units(count: int, dimension: int) -> torch.Tensor:
    return torch.nn.functional.normalize(
        torch.randn(count, dimension, generator=torch.Generator().manual_seed(1)), dim=1
    )


def laion_state(seed: int = 0) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    state = {}
    for index, (inputs, outputs) in LAION_LAYERS.items():
        state[f"layers.{index}.weight"] = torch.randn(outputs, inputs, generator=random) / inputs**0.5
        state[f"layers.{index}.bias"] = torch.randn(outputs, generator=random)
    return state


def test_folded_head_equals_the_layers_in_turn() -> None:
    state = laion_state()
    images = values = units(100, 768)
    for index in LAION_LAYERS:
        values = values @ state[f"layers.{index}.weight"].T + state[f"layers.{index}.bias"]
    torch.testing.assert_close(fold_linear_layers(state)(rows(images)), values.squeeze(1), atol=1e-5, rtol=1e-5)


def test_layers_apply_in_number_order_not_alphabetical_order() -> None:
    state = {"layers.10.weight": torch.tensor([[1.0]]), "layers.10.bias": torch.tensor([5.0])}
    state |= {"layers.2.weight": torch.tensor([[3.0, 1.0]]), "layers.2.bias": torch.tensor([1.0])}
    head = fold_linear_layers(state)
    assert head(rows(torch.tensor([[1.0, 0.0]]))).item() == pytest.approx(9.0)


def test_cosine_head_scales() -> None:
    images = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    prompts = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    torch.testing.assert_close(CosineHead(100.0)(rows(images, prompts)), torch.tensor([0.0, 60.0]))


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
        read_head("aesthetic", path)
    assert str(raised.value) == f"{path} is not an aesthetic head in LAION's layout: {message}"


@pytest.mark.parametrize("name", ["sac+logos+ava1-l14-linearMSE.pth", "sa_0_4_vit_l_14_linear.pth"])
def test_published_heads_rise_over_rated_embeddings(name: str) -> None:
    if not AESTHETIC.is_dir():
        pytest.skip(f"the published heads are not at {AESTHETIC}")
    head = read_head("aesthetic", AESTHETIC / name)
    means = []
    for rating in range(10):
        rated = torch.from_numpy(np.load(AESTHETIC / "vit_l_14_embeddings" / f"rating{rating}.npy")).float()
        unit = torch.nn.functional.normalize(rated.reshape(-1, 768), dim=1)
        means.append(head(rows(unit)).mean().item())
    correlation = np.corrcoef(range(10), means)[0, 1]
    assert correlation > 0.9
    assert means[9] > means[0] + 1.0


class NormalisedNsfw(torch.nn.Module):
    """LAION's classifier for ViT-L/14 and ViT-B/32, spelt out under its published names."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.norm = torch.nn.Module()
        self.norm.register_buffer("mean", 0.01 * torch.randn(widths[0]))
        self.norm.register_buffer("variance", 0.001 + torch.rand(widths[0]) / widths[0])
        for index, (inputs, outputs) in enumerate(itertools.pairwise(widths), start=1):
            self.add_module(f"linear_{index}", torch.nn.Linear(inputs, outputs))
        self.depth = len(widths) - 1

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        state = self.state_dict()
        values = (values - state["norm.mean"]) / state["norm.variance"].sqrt()
        for index in range(1, self.depth):
            values = self.get_submodule(f"linear_{index}")(values).relu()
        return self.get_submodule(f"linear_{self.depth}")(values).sigmoid().squeeze(1)


def regression_nsfw(widths: tuple[int, ...]) -> torch.nn.Module:
    """LAION's classifier for ViT-H/14: ReLU and dropout after all layers but the last two."""
    parts: list[torch.nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths[:-2]):
        parts += [torch.nn.Linear(inputs, outputs), torch.nn.ReLU(), torch.nn.Dropout(0.2)]
    parts += [torch.nn.Linear(widths[-3], widths[-2]), torch.nn.Linear(widths[-2], widths[-1])]
    module = torch.nn.Module()
    module.layers = torch.nn.Sequential(*parts)
    return module.eval()


@torch.no_grad()
@pytest.mark.parametrize("widths", [(768, 64, 512, 256, 1), (512, 32, 32, 1)])
def test_nsfw_is_laions_classifier(widths: tuple[int, ...], tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, images = NormalisedNsfw(widths), units(50, widths[0])
    torch.save(module.state_dict(), tmp_path / "head.pth")
    expected = module(images)
    assert expected.std() > 1e-3
    torch.testing.assert_close(read_head("nsfw", tmp_path / "head.pth")(rows(images)), expected)


@torch.no_grad()
def test_nsfw_without_a_sigmoid_is_cut_to_its_range(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = regression_nsfw((1024, 1024, 2048, 1024, 256, 128, 16, 1))
    last = module.get_parameter("layers.16.weight")
    last.mul_(3000.0)
    images = units(200, 1024)
    expected = module.get_submodule("layers")(images).squeeze(1)
    module.get_parameter("layers.16.bias").add_(0.5 - expected.mean())
    expected = module.get_submodule("layers")(images).squeeze(1)
    assert expected.min() < 0.0 < 1.0 < expected.max()
    assert ((expected > 0) & (expected < 1)).sum() > 20
    torch.save(module.state_dict(), tmp_path / "h14.pth")
    torch.testing.assert_close(read_head("nsfw", tmp_path / "h14.pth")(rows(images)), expected.clamp(0, 1))


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, "unknown keys []; it holds norm.* and linear_<i>.*, or layers.<i>.*"),
        ({"weight": torch.zeros(1, 8)}, "unknown keys ['weight']; it holds norm.* and linear_<i>.*, or layers.<i>.*"),
        (
            laion_state(),
            "its layers are numbered [0, 2, 4, 6, 7]; a ReLU and a Dropout make steps of 3, nothing makes 1",
        ),
        (
            {"layers.0.weight": torch.zeros(4, 8), "layers.0.bias": torch.zeros(4)},
            "the last layer gives 4 numbers, a score is one",
        ),
        (
            {"layers.0.weight": torch.zeros(4, 8), "layers.0.bias": torch.zeros(4)}
            | {"layers.3.weight": torch.zeros(1, 5), "layers.3.bias": torch.zeros(1)},
            "layers.3 takes 5 numbers, the layer before gives 4",
        ),
    ],
)
def test_what_is_no_nsfw_head_is_refused(state: dict[str, torch.Tensor], message: str, tmp_path: Path) -> None:
    path = tmp_path / "head.pth"
    torch.save(state, path)
    with pytest.raises(ModelError) as raised:
        read_head("nsfw", path)
    assert str(raised.value) == f"{path} is not an NSFW head in one of LAION's PyTorch layouts: {message}"


def test_an_input_that_never_varies_does_not_divide_by_zero() -> None:
    state = NormalisedNsfw((4, 3, 1)).state_dict()
    state["norm.variance"][0] = 0.0
    state["norm.mean"][0] = 0.5
    assert torch.isfinite(nsfw_head(state)(rows(torch.tensor([[0.5, 0.5, 0.5, 0.5]])))).all()


def test_an_nsfw_head_for_another_tower_is_refused(tmp_path: Path) -> None:
    torch.save(NormalisedNsfw((768, 4, 1)).state_dict(), tmp_path / "head.pth")
    models = load_model_set("demo")
    spec = ScorerSpec("nsfw", "clip", "nsfw", {"weights": str(tmp_path / "head.pth")})
    with pytest.raises(ModelError, match=r"takes embeddings of 768 numbers, tower 'clip' gives \d+$"):
        load_scoring(models, [spec], "cpu", "fp32")


def flags(path: Path, *texts: str) -> list[float]:
    values: list[float] = load_words_head(path)(Matched(list(texts))).tolist()
    return values


@pytest.mark.parametrize(
    ("text", "flag"),
    [
        ("a Nude figure", 1.0),
        ("NUDE", 1.0),
        ("ｎｕｄｅ", 1.0),
        ("denuded hills", 0.0),
        ("nudes", 0.0),
        ("no  clothes\nat all", 1.0),
        ("no clothesline", 0.0),
        ("poster (18+), signed", 1.0),
        ("118+1", 0.0),
        ("GROSSE STRASSE", 1.0),
        ("", 0.0),
        ("a red circle", 0.0),
    ],
)
def test_words_count_as_whole_words_in_any_case(text: str, flag: float, tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("# a list\nnude\nNo Clothes # a phrase\n\n18+\nstraße\n", encoding="utf-8")
    assert flags(path, text) == [flag]


def test_the_bundled_words() -> None:
    path = BUNDLED / "nsfw_words.txt"
    assert flags(path, "a nude portrait, nsfw", "a dog on the beach", "Essex county") == [1.0, 0.0, 0.0]
    words = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    assert len(words) == len(set(words)) < 60


def test_a_list_without_words_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("# nothing yet\n")
    with pytest.raises(ModelError, match=r"empty\.txt holds no word; write one word or phrase a line"):
        load_words_head(tmp_path / "empty.txt")
    (tmp_path / "latin.txt").write_bytes(b"stra\xdfe")
    with pytest.raises(ModelError, match=r"latin\.txt is not UTF-8 text"):
        load_words_head(tmp_path / "latin.txt")
