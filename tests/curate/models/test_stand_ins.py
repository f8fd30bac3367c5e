"""Each kind of published weights, in its own container: every number of the file is in the model, and it scores."""

from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from benchmarks.parity.stand_ins import CHECKPOINT, SCORERS, write_stand_ins
from curate.models.image_reward import ImageReward, vision_name
from curate.models.model_set import load_model_set
from curate.models.scoring import EmbeddedPrompts, Scoring, load_scoring, stacked

NEEDED_GIB = {"clip": 5, "pickscore": 10, "hpsv2": 8, "image_reward": 6}


def available_gib() -> float:
    return psutil.virtual_memory().available / 2**30


def held(folder: Path, name: str) -> dict[str, torch.Tensor]:
    """What the file holds, by the model's own names."""
    if name in ("clip", "pickscore"):
        (path,) = (folder / name).glob("*.safetensors")
        return {key: value for key, value in load_file(path).items() if not key.endswith("position_ids")}
    if name == "hpsv2":
        return torch.load(folder / "hpsv2" / CHECKPOINT, weights_only=True, mmap=True)["state_dict"]
    state = torch.load(folder / "image_reward" / "ImageReward.pt", weights_only=True, mmap=True)
    vision = {key.removeprefix("blip.visual_encoder."): value for key, value in state.items() if "visual" in key}
    return {vision_name(key): value for key, value in vision.items()}


def module(scoring: Scoring, name: str) -> torch.nn.Module:
    if name != "image_reward":
        tower: Any = scoring.towers[name]
        return tower.model
    scorer = scoring.heads[name][0]
    assert isinstance(scorer, ImageReward)
    return scorer.vision


def check(folder: Path, name: str, small: bool) -> None:
    scorers = [name, "aesthetic", "nsfw"] if name == "clip" else [name]
    models = load_model_set(str(write_stand_ins(folder, scorers, small)))
    scoring = load_scoring(models, models.choose(scorers), "cpu", "fp32")
    there = module(scoring, name).state_dict()
    expected = held(folder, name)
    assert there.keys() == expected.keys()
    for key, values in expected.items():
        assert torch.equal(there[key], values.float()), key
    pictures = stacked([scoring.preprocess(Image.new("RGB", (300, 200), colour)) for colour in ("red", "navy")])
    texts = ["a red circle", "the blue square"]
    prompts = EmbeddedPrompts({"p": 0, "q": 1}, texts, scoring.embed_prompts(texts))
    _, scores = scoring.score_at_once(pictures, [(0, "p"), (1, "p"), (1, "q")], prompts)
    assert sorted(scores) == sorted(scorers)
    for numbers in scores.values():
        assert np.isfinite(numbers).all()
        assert len(set(numbers.tolist())) > 1


@pytest.mark.parametrize("name", NEEDED_GIB)
def test_small_with_the_same_keys(tmp_path: Path, name: str) -> None:
    check(tmp_path, name, small=True)


@pytest.mark.nightly
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", NEEDED_GIB)
def test_at_full_size_where_memory_allows(tmp_path: Path, name: str) -> None:
    if available_gib() < NEEDED_GIB[name]:
        pytest.skip(f"{NEEDED_GIB[name]} GiB of memory are not free")
    check(tmp_path, name, small=False)


def test_every_published_kind_has_a_stand_in() -> None:
    published = load_model_set("published").scorers
    assert set(SCORERS) == {name for name, spec in published.items() if spec.head != "words"}
    for name, options in SCORERS.items():
        assert (options["head"], options.get("tower")) == (published[name].head, published[name].tower)
