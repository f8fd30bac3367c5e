"""Each score against a few plain lines of open_clip or transformers, on the set of models itself."""

import io
import shutil
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPModel, CLIPProcessor, CLIPTextConfig, CLIPTextModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from curate.errors import ModelError
from curate.models.model_set import ModelSet, TowerSpec, load_model_set
from curate.models.scoring import EmbeddedPrompts, Scoring, load_scoring, stacked
from curate.models.towers import load_tower
from curate.models.towers.hpsv2 import FitLongSide, hpsv2_transform
from curate.sources.images import Decoded, decode
from tests.curate.builders import MODELS, picture_bytes

PROMPTS = ["a red circle above a blue square", "", "x" * 10_000, "赤い円 🔴"]
PICTURES = [
    picture_bytes(1),
    picture_bytes(2, (96, 64), "PNG"),
    picture_bytes(3, (40, 80)),
    picture_bytes(4, (128, 128)),
]


@pytest.fixture(scope="module")
def models() -> ModelSet:
    return load_model_set(MODELS)


@pytest.fixture(scope="module")
def scoring(models: ModelSet) -> Scoring:
    return load_scoring(models, models.choose(["clip", "pickscore", "aesthetic", "hpsv2"]), "cpu", "fp32")


def our_scores(scoring: Scoring) -> dict[str, np.ndarray]:
    decoded = [decode(data) for data in PICTURES]
    pictures = stacked([scoring.preprocess(item.image) for item in decoded if isinstance(item, Decoded)])
    rows = {str(row): row for row in range(len(PROMPTS))}
    prompts = EmbeddedPrompts(rows, PROMPTS, scoring.embed_prompts(PROMPTS))
    _, scores = scoring.score_at_once(pictures, [(row, prompt_id) for prompt_id, row in rows.items()], prompts)
    return scores


def folder_of(models: ModelSet, tower: str, key: str) -> Path:
    return (models.folder / models.towers[tower].options[key]).resolve()


@pytest.fixture
def pictures() -> list[Image.Image]:
    return [Image.open(io.BytesIO(data)).convert("RGB") for data in PICTURES]


@torch.no_grad()
def test_clip_score_is_open_clips_cosine(models: ModelSet, scoring: Scoring, pictures: list[Image.Image]) -> None:
    name = f"local-dir:{folder_of(models, 'clip', 'folder')}"
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    model.eval()
    images = model.encode_image(torch.stack([preprocess(picture) for picture in pictures]), normalize=True)
    texts = model.encode_text(open_clip.get_tokenizer(name)(PROMPTS), normalize=True)
    np.testing.assert_allclose(our_scores(scoring)["clip"], (images * texts).sum(1).numpy(), atol=1e-5)


@torch.no_grad()
def test_pickscore_is_the_model_cards_computation(
    models: ModelSet, scoring: Scoring, pictures: list[Image.Image]
) -> None:
    folder = folder_of(models, "pickscore", "model")
    model, processor = CLIPModel.from_pretrained(folder).eval(), CLIPProcessor.from_pretrained(folder)
    pillow = CLIPImageProcessorPil.from_pretrained(folder)
    length = model.config.text_config.max_position_embeddings
    texts = processor(text=PROMPTS, padding=True, truncation=True, max_length=length, return_tensors="pt")
    image_features = model.get_image_features(**pillow(images=pictures, return_tensors="pt")).pooler_output
    text_features = model.get_text_features(**texts).pooler_output
    image_features = image_features / image_features.norm(dim=-1, keepdim=True)
    text_features = text_features / text_features.norm(dim=-1, keepdim=True)
    expected = model.logit_scale.exp() * (text_features * image_features).sum(1)
    np.testing.assert_allclose(our_scores(scoring)["pickscore"], expected.numpy(), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_aesthetic_is_the_five_layers_in_turn(models: ModelSet, scoring: Scoring, pictures: list[Image.Image]) -> None:
    name = f"local-dir:{folder_of(models, 'clip', 'folder')}"
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    features = model.eval().encode_image(torch.stack([preprocess(picture) for picture in pictures]), normalize=True)
    head = models.scorers["aesthetic"].options["weights"]
    state = torch.load((models.folder / head).resolve(), weights_only=True)
    for index in (0, 2, 4, 6, 7):
        features = torch.nn.functional.linear(features, state[f"layers.{index}.weight"], state[f"layers.{index}.bias"])
    np.testing.assert_allclose(our_scores(scoring)["aesthetic"], features.squeeze(1).numpy(), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_hpsv2_is_the_checkpoints_cosine(models: ModelSet, scoring: Scoring, pictures: list[Image.Image]) -> None:
    name = f"local-dir:{folder_of(models, 'hpsv2', 'folder')}"
    model = open_clip.create_model(name, load_weights=False)
    checkpoint = torch.load(folder_of(models, "hpsv2", "checkpoint"), weights_only=True)
    model.load_state_dict(checkpoint["state_dict"])
    pixels = torch.stack([hpsv2_transform(64)(picture) for picture in pictures])
    images = model.eval().encode_image(pixels, normalize=True)
    texts = model.encode_text(open_clip.get_tokenizer(name)(PROMPTS), normalize=True)
    np.testing.assert_allclose(our_scores(scoring)["hpsv2"], (images * texts).sum(1).numpy(), atol=1e-5)


def test_a_batch_does_not_change_a_picture_or_a_prompt(scoring: Scoring) -> None:
    pixels = [scoring.preprocess(Image.open(io.BytesIO(data)).convert("RGB")) for data in PICTURES]
    together, alone = scoring.embed_images(stacked(pixels)), scoring.embed_images(stacked(pixels[:1]))
    prompts_together, prompts_alone = scoring.embed_prompts(PROMPTS), scoring.embed_prompts(PROMPTS[:1])
    for tower in scoring.towers:
        torch.testing.assert_close(together[tower][:1], alone[tower], atol=1e-5, rtol=0)
        torch.testing.assert_close(prompts_together[tower][:1], prompts_alone[tower], atol=1e-5, rtol=0)


def test_embeddings_are_unit_vectors(scoring: Scoring) -> None:
    for values in scoring.embed_prompts(PROMPTS).values():
        torch.testing.assert_close(values.norm(dim=1), torch.ones(len(PROMPTS)), atol=1e-5, rtol=0)


def test_fit_long_side_pads_the_short_side_with_zeros() -> None:
    wide = FitLongSide(64)(torch.ones(3, 32, 128))
    assert wide.shape == (3, 64, 64)
    assert torch.all(wide[:, :24] == 0)
    assert torch.all(wide[:, 40:] == 0)
    torch.testing.assert_close(wide[:, 24:40], torch.ones(3, 16, 64))


def test_fit_long_side_leaves_a_fitting_picture_alone() -> None:
    pixels = torch.rand(3, 64, 64)
    assert FitLongSide(64)(pixels) is pixels


def test_fit_long_side_pads_a_picture_whose_long_side_fits() -> None:
    padded = FitLongSide(64)(torch.ones(3, 32, 64))
    assert padded.shape == (3, 64, 64)
    assert torch.all(padded[:, :16] == 0)


def test_missing_folder_is_one_sentence(tmp_path: Path) -> None:
    spec = TowerSpec("clip", "open_clip", {"folder": "nowhere"})
    with pytest.raises(ModelError, match=r"nowhere holds no open_clip_model\.safetensors; give a folder in open_clip"):
        load_tower(spec, tmp_path, "cpu", "fp32")


def test_a_checkpoint_of_another_layout_is_refused(models: ModelSet, tmp_path: Path) -> None:
    torch.save({"weights": torch.zeros(1)}, tmp_path / "other.pt")
    options = {"folder": str(folder_of(models, "hpsv2", "folder")), "checkpoint": str(tmp_path / "other.pt")}
    with pytest.raises(ModelError, match=r"other\.pt is not an HPSv2 checkpoint: no 'state_dict' among \['weights'\]"):
        load_tower(TowerSpec("hpsv2", "hpsv2", options), tmp_path, "cpu", "fp32")


def test_a_checkpoint_with_code_is_refused(models: ModelSet, tmp_path: Path) -> None:
    torch.save({"state_dict": Path("code")}, tmp_path / "pickled.pt")
    options = {"folder": str(folder_of(models, "hpsv2", "folder")), "checkpoint": str(tmp_path / "pickled.pt")}
    with pytest.raises(ModelError, match="its checkpoint holds more than tensors"):
        load_tower(TowerSpec("hpsv2", "hpsv2", options), tmp_path, "cpu", "fp32")


def test_a_folder_of_another_class_is_refused(tmp_path: Path) -> None:
    config = CLIPTextConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    CLIPTextModel(config).save_pretrained(tmp_path / "text")
    with pytest.raises(
        ModelError, match=r"text is a 'clip_text_model' model; this family takes a transformers CLIPModel$"
    ):
        load_tower(TowerSpec("pickscore", "transformers_clip", {"model": "./text"}), tmp_path, "cpu", "fp32")


def test_a_model_with_missing_weights_is_refused(models: ModelSet, tmp_path: Path) -> None:
    folder = shutil.copytree(folder_of(models, "pickscore", "model"), tmp_path / "cut")
    weights = load_file(folder / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"/cut: its checkpoint is not of the architecture: it lacks visual_proj\S+$"):
        load_tower(TowerSpec("pickscore", "transformers_clip", {"model": "./cut"}), tmp_path, "cpu", "fp32")


def test_later_downloads_are_shown_where_a_tower_is_loaded(models: ModelSet) -> None:
    enable_progress_bars()  # another test may have had them off
    load_tower(models.towers["pickscore"], models.folder, "cpu", "fp32")
    assert not are_progress_bars_disabled()


def test_stated_sha256_is_held(models: ModelSet, tmp_path: Path) -> None:
    options = {"folder": str(folder_of(models, "clip", "folder")), "sha256": "0" * 64}
    with pytest.raises(ModelError, match="the set of models states 0000"):
        load_tower(TowerSpec("clip", "open_clip", options), tmp_path, "cpu", "fp32")


@pytest.mark.gpu
def test_half_precision_on_the_gpu_is_near_float32(models: ModelSet, scoring: Scoring) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    half = load_scoring(models, models.choose(["clip", "pickscore"]), "cuda", "fp16")
    np.testing.assert_allclose(our_scores(half)["clip"], our_scores(scoring)["clip"], atol=2e-2)
