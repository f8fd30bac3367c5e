"""Every model folder of the demo loads with the library whose format it claims, and says something true."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from PIL import Image
from transformers import CLIPModel, CLIPProcessor, CLIPTokenizer

from benchmarks.demo_world.degrade import blur, to_image
from benchmarks.demo_world.scenes import edit_scene, random_scene, render
from benchmarks.demo_world.truth import truth

MODELS = Path(__file__).parents[2] / "data_manifests" / "demo" / "models"
PROMPT = "a large red circle above a small blue square on a white background"


@pytest.fixture(scope="module")
def scene_pictures() -> tuple[list[str], list[Image.Image], list[Image.Image]]:
    """Captions, drawings of them, and drawings of captions with one word changed."""
    rng = np.random.default_rng(0)
    scenes = [random_scene(rng) for _ in range(60)]
    right = [to_image(render(scene, rng)) for scene in scenes]
    wrong = [to_image(render(edit_scene(rng, scene), rng)) for scene in scenes]
    return [scene.caption for scene in scenes], right, wrong


@pytest.fixture(scope="module")
def clip() -> Any:
    """(model, preprocess, tokenizer) of open_clip."""
    name = f"local-dir:{MODELS / 'clip'}"
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    return model.eval(), preprocess, open_clip.get_tokenizer(name)


def share_right(cosines_right: torch.Tensor, cosines_wrong: torch.Tensor) -> float:
    return (cosines_right > cosines_wrong).float().mean().item()


def open_clip_cosines(clip: Any, prompts: list[str], images: list[Image.Image]) -> torch.Tensor:
    model, preprocess, tokenizer = clip
    with torch.inference_mode():
        pictures = model.encode_image(torch.stack([preprocess(image) for image in images]), normalize=True)
        return (pictures * model.encode_text(tokenizer(prompts), normalize=True)).sum(dim=1)


def test_no_file_tells_where_it_was_made() -> None:
    for path in MODELS.parent.rglob("*.json"):
        text = path.read_text(encoding="utf-8")
        assert "_name_or_path" not in text, path
        assert "/tmp/" not in text, path


def test_stable_diffusion_draws() -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(MODELS / "sd")
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.unet.dtype == pipeline.vae.dtype == pipeline.text_encoder.dtype == torch.float32
    generators = [torch.Generator().manual_seed(seed) for seed in range(4)]
    pictures = pipeline([PROMPT] * 4, num_inference_steps=6, guidance_scale=2.0, generator=generators, output_type="np")
    grey = truth(np.full((64, 64, 3), 0.5, np.float32), PROMPT)
    assert pictures.images.shape == (4, 64, 64, 3)
    assert np.mean([truth(picture, PROMPT) for picture in pictures.images]) > grey + 0.1


def test_sdxl_twin_takes_time_ids_and_pooled_prompts() -> None:
    pipeline = StableDiffusionXLPipeline.from_pretrained(MODELS / "sdxl", add_watermarker=False)
    pipeline.set_progress_bar_config(disable=True)
    pictures = pipeline(PROMPT, num_inference_steps=2, output_type="np", height=64, width=64).images
    assert pictures.shape == (1, 64, 64, 3)
    assert np.isfinite(pictures).all()
    assert sum(path.stat().st_size for path in (MODELS / "sdxl").rglob("*") if path.is_file()) <= 1_000_000


@pytest.mark.parametrize("folder", ["sd/tokenizer", "sdxl/tokenizer", "sdxl/tokenizer_2", "clip", "hpsv2", "pickscore"])
def test_tokenizers_take_any_text(folder: str) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(MODELS / folder)
    for text in ("", PROMPT, "日本語 🎨 naïve", "x" * 10_000):
        ids = tokenizer(text, padding="max_length", truncation=True).input_ids
        assert len(ids) == tokenizer.model_max_length == 24
        assert ids[0] == tokenizer.bos_token_id
        assert tokenizer.eos_token_id in ids
    assert tokenizer.decode(tokenizer(PROMPT).input_ids, skip_special_tokens=True) == PROMPT


def test_clip_prefers_the_right_drawing(clip: Any, scene_pictures: Any) -> None:
    prompts, right, wrong = scene_pictures
    assert share_right(open_clip_cosines(clip, prompts, right), open_clip_cosines(clip, prompts, wrong)) > 0.85


def test_hpsv2_checkpoint_loads_into_its_architecture(scene_pictures: Any) -> None:
    config = json.loads((MODELS / "hpsv2" / "open_clip_config.json").read_text(encoding="utf-8"))
    model = open_clip.model.CLIP(**config["model_cfg"])
    checkpoint = torch.load(MODELS / "hpsv2" / "HPS_v2.1_demo.pt", weights_only=True)
    model.load_state_dict(checkpoint["state_dict"])
    preprocess = open_clip.image_transform(64, is_train=False, resize_mode="longest", fill_color=0)
    hpsv2 = model.eval(), preprocess, open_clip.get_tokenizer(f"local-dir:{MODELS / 'hpsv2'}")
    prompts, right, wrong = scene_pictures
    assert share_right(open_clip_cosines(hpsv2, prompts, right), open_clip_cosines(hpsv2, prompts, wrong)) > 0.75


def test_pickscore_loads_and_prefers_the_right_drawing(scene_pictures: Any) -> None:
    model = CLIPModel.from_pretrained(MODELS / "pickscore").eval()
    processor = CLIPProcessor.from_pretrained(MODELS / "pickscore")
    prompts, right, wrong = scene_pictures
    scores = []
    for images in (right, wrong):
        inputs = processor(
            text=prompts, images=images, padding="max_length", truncation=True, max_length=24, return_tensors="pt"
        )
        with torch.inference_mode():
            output = model(**inputs)
        scores.append((output.image_embeds * output.text_embeds).sum(dim=1))
    assert model.dtype == torch.float32
    assert share_right(*scores) > 0.75


def test_aesthetic_head_has_laions_layout_and_dislikes_blur(clip: Any) -> None:
    state = torch.load(MODELS / "aesthetic.pth", weights_only=True)
    names = [f"layers.{layer}.{part}" for layer in (0, 2, 4, 6, 7) for part in ("weight", "bias")]
    assert list(state) == names
    rng = np.random.default_rng(0)
    drawings = [render(random_scene(rng), rng) for _ in range(40)]
    ratings = []
    for strength in (0.0, 0.8):
        images = [to_image(blur(rng, drawing, strength) if strength else drawing) for drawing in drawings]
        with torch.inference_mode():
            value = clip[0].encode_image(torch.stack([clip[1](image) for image in images]), normalize=True)
            for layer in (0, 2, 4, 6, 7):
                value = value @ state[f"layers.{layer}.weight"].T + state[f"layers.{layer}.bias"]
        ratings.append(value.mean().item())
    assert 1 < ratings[1] + 1 < ratings[0] < 12
