"""Every published preprocessing is taken apart whole, gives the same bits, and shares what it has in common."""

from itertools import product
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, Normalize, Resize, ToTensor
from torchvision.transforms.functional import pil_to_tensor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from curate.embed.decode.steps import CentreCut, Preprocess, all_pixels
from curate.embed.decode.taken_apart import needed_side_px, taken_apart
from curate.models.image_reward import image_reward_transform
from curate.models.model_set import load_model_set
from curate.models.scoring import load_scoring
from curate.models.towers.hpsv2 import hpsv2_transform
from curate.models.towers.transformers_clip import ProcessorPixels
from tests.curate.builders import MODELS

STATISTICS = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
SIZES = [(224, 224), (512, 512), (300, 301), (226, 229), (227, 224), (768, 1024), (100, 60), (1200, 230), (64, 640)]


def open_clips() -> dict[str, Preprocess]:
    """Of every published tag, each different way to resize, cut and normalise."""
    found = {}
    for name, tag in open_clip.list_pretrained():
        stated = open_clip.pretrained.get_pretrained_cfg(name, tag)
        kept = {key: stated[key] for key in ("mean", "std", "interpolation", "resize_mode")}
        found[f"open_clip {kept}"] = image_transform_v2(PreprocessCfg(size=224, **kept), is_train=False)
    return found


def processor(**changes: Any) -> ProcessorPixels:
    """PickScore's and any CLIP's, as the published preprocessor_config.json states it."""
    return ProcessorPixels(CLIPImageProcessorPil(**(STATISTICS | changes)))


OPENAI = image_transform_v2(PreprocessCfg(size=224), is_train=False)
PUBLISHED: dict[str, Preprocess] = open_clips() | {
    "open_clip at 336 px": image_transform_v2(PreprocessCfg(size=(336, 336)), is_train=False),
    "pickscore": processor(),
    "hpsv2": hpsv2_transform(224),
    "image_reward": image_reward_transform(224),
}


def picture(size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(np.random.default_rng(sum(size)).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))


def test_there_are_as_many_ways_as_open_clip_publishes() -> None:
    assert len(open_clips()) >= 4


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_preprocessing_is_taken_apart_whole_and_gives_the_same_bits(name: str) -> None:
    whole, steps = PUBLISHED[name], taken_apart(PUBLISHED[name])
    assert steps is not None
    for size in SIZES:
        assert torch.equal(steps(picture(size)), whole(picture(size))), size
    smooth = picture((9, 9)).resize((300, 301), Image.Resampling.BICUBIC)
    assert (steps(pil_to_tensor(smooth)) - whole(smooth)).abs().max() < 0.05  # three steps of 1/255


def test_every_preprocessing_of_the_demo_is_taken_apart() -> None:
    models = load_model_set(MODELS)
    scoring = load_scoring(models, models.choose(list(models.scorers)), "cpu", "fp32")
    assert all(taken_apart(one) is not None for one in scoring.preprocessors.values())


@pytest.mark.parametrize("size", SIZES)
def test_shared_steps_change_no_bit(size: tuple[int, int]) -> None:
    shared = dict(all_pixels(picture(size), {name: steps_of(one) for name, one in PUBLISHED.items()}))
    for name, preprocess in PUBLISHED.items():
        assert torch.equal(shared[name], preprocess(picture(size))), name


@pytest.mark.parametrize(
    ("size", "shared"), [((512, 512), True), ((224, 226), True), ((224, 227), False), ((229, 224), True)]
)
def test_clip_pickscore_and_image_reward_are_one_where_their_cuts_agree(size: tuple[int, int], shared: bool) -> None:
    """The cuts of open_clip and transformers are a pixel apart where 3 pixels, or 7, 11 …, are to go."""
    known = {name: steps_of(PUBLISHED[name]) for name in ("pickscore", "image_reward")} | {"clip": steps_of(OPENAI)}
    found = dict(all_pixels(picture(size), known))
    assert found["clip"] is found["image_reward"]
    assert (found["clip"] is found["pickscore"]) == shared


def test_a_picture_is_resized_once_where_only_the_cuts_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    resized: list[Image.Image] = []
    original = Resize.forward

    def counted(self: Resize, image: Image.Image) -> Image.Image:
        resized.append(image)
        return original(self, image)

    monkeypatch.setattr(Resize, "forward", counted)
    dict(all_pixels(picture((224, 454)), {"clip": steps_of(OPENAI), "pickscore": steps_of(PUBLISHED["pickscore"])}))
    assert len(resized) == 1


@pytest.mark.parametrize(("left", "rounds"), list(product(range(9), (True, False))))
def test_where_the_middle_begins(left: int, rounds: bool) -> None:
    whole = torch.arange(10 + left).expand(3, 10, 10 + left)
    theirs = CenterCrop(10)(whole)[0, 0, 0] if rounds else left // 2
    assert CentreCut(10, 10, rounds).corner(whole) == (0, int(theirs))


@pytest.mark.parametrize(
    "other",
    [
        lambda image: torch.zeros(3, 8, 8),
        Compose([Resize(64), CenterCrop(80), ToTensor()]),
        Compose([Resize(64, max_size=70), CenterCrop(64), ToTensor()]),
        Compose([Resize(64), lambda image: image, ToTensor()]),
        processor(do_center_crop=False),
        processor(resample=2),
        processor(rescale_factor=1 / 127.5),
        processor(size={"shortest_edge": 64}),
        processor(size={"height": 224, "width": 224}),
    ],
)
def test_what_is_not_known_stays_whole(other: Preprocess) -> None:
    assert taken_apart(other) is None


def test_statistics_of_ones_own_are_not_taken_for_anothers() -> None:
    other = Compose([Resize(224), CenterCrop(224), ToTensor(), Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))])
    found = dict(all_pixels(picture((300, 300)), {"one": steps_of(OPENAI), "other": steps_of(other)}))
    assert torch.equal(found["other"], other(picture((300, 300))))


def test_the_side_that_is_needed() -> None:
    assert [needed_side_px(PUBLISHED[name]) for name in ("pickscore", "hpsv2", "image_reward")] == [224, 224, 224]
    assert needed_side_px(PUBLISHED["open_clip at 336 px"]) == 336


def steps_of(preprocess: Preprocess) -> Preprocess:
    steps = taken_apart(preprocess)
    assert steps
    return steps
