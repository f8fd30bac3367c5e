"""Sets of models: the bundled ones name the published weights; a wrong one says where and what is meant."""

import re
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from curate.errors import ManifestError, UsageError
from curate.models.model_set import DEFAULT_SCORERS, load_model_set

GOOD: dict[str, Any] = {
    "towers": {"clip": {"family": "open_clip", "folder": "clip"}},
    "scorers": {
        "clip": {"tower": "clip", "head": "cosine"},
        "aesthetic": {"tower": "clip", "head": "aesthetic", "weights": "aesthetic.pth"},
    },
}


def written(folder: Path, content: dict[str, Any]) -> str:
    path = folder / "mine.toml"
    path.write_text(tomli_w.dumps(content))
    return str(path)


def with_tower(**options: Any) -> dict[str, Any]:
    return GOOD | {"towers": {"clip": GOOD["towers"]["clip"] | options}}


def with_scorer(name: str = "mine", **options: Any) -> dict[str, Any]:
    return GOOD | {"scorers": {name: options}}


@pytest.mark.parametrize(
    ("name", "further"),
    [
        ("demo", {"nsfw_words": "words"}),
        ("published", {"image_reward": "image_reward", "nsfw": "nsfw", "nsfw_words": "words"}),
    ],
)
def test_bundled_set_has_the_four_scorers_and_further_ones(name: str, further: dict[str, str]) -> None:
    found = load_model_set(name)
    assert found.name == name
    four = {"clip": "cosine", "pickscore": "scaled_cosine", "aesthetic": "aesthetic", "hpsv2": "cosine"}
    assert {spec.name: spec.head for spec in found.choose(list(found.scorers))} == four | further


def test_scorers_without_a_tower_ask_for_none() -> None:
    published = load_model_set("published")
    assert published.towers_of(published.choose(["image_reward", "nsfw_words"])) == []
    assert [spec.name for spec in published.towers_of(published.choose(["nsfw_words", "nsfw"]))] == ["clip"]


def test_published_names_the_weights_of_the_papers() -> None:
    towers = {name: spec.options for name, spec in load_model_set("published").towers.items()}
    assert (towers["clip"]["model"], towers["clip"]["pretrained"]) == ("ViT-L-14-quickgelu", "openai")
    assert towers["pickscore"]["model"] == "yuvalkirstain/PickScore_v1"
    assert towers["pickscore"]["processor"] == "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
    assert towers["pickscore"]["max_tokens"] == 77
    commit = "697403c78157020a1ae59d23f111aa58ced35b0a"
    assert towers["hpsv2"]["checkpoint"] == f"hf://xswu/HPSv2@{commit}/HPS_v2.1_compressed.pt"


def test_every_published_file_is_pinned_by_a_commit() -> None:
    published = load_model_set("published")
    specs: list[Any] = [*published.towers.values(), *published.scorers.values()]
    options = [spec.options for spec in specs]
    locations = [value for one in options for value in one.values() if str(value).startswith("hf://")]
    assert len(locations) == 4
    assert all(re.search("@[0-9a-f]{40}/", location) for location in locations)
    names = {"model": "revision", "processor": "processor_revision", "tokenizer": "tokenizer_revision"}
    named = [(one, key) for one in options for key in names if "/" in one.get(key, "")]
    assert len(named) == 3
    assert all(re.fullmatch("[0-9a-f]{40}", one[names[key]]) for one, key in named)


def test_default_scorers_share_the_clip_tower() -> None:
    """CLIP score comes from the tower that the aesthetic head reads anyway: three scorers, two towers."""
    published = load_model_set("published")
    chosen = published.choose(list(DEFAULT_SCORERS))
    assert [spec.name for spec in chosen] == ["clip", "pickscore", "aesthetic"]
    assert [spec.name for spec in published.towers_of(chosen)] == ["clip", "pickscore"]


def test_set_of_the_users_own(tmp_path: Path) -> None:
    found = load_model_set(written(tmp_path, GOOD))
    assert (found.name, found.folder) == ("mine", tmp_path.resolve())
    assert found.scorers["aesthetic"].options == {"weights": "aesthetic.pth"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"tower": {}}, "unknown key 'tower'; did you mean 'towers'?"),
        ({}, "no [scorers.NAME] table"),
        ({"towers": 3}, "'towers' must hold tables, each under its own [towers.NAME]"),
        ({"towers": {"clip": "ViT"}}, "'towers' must hold tables, each under its own [towers.NAME]"),
        ({"scorers": {"clip": 1}}, "'scorers' must hold tables, each under its own [scorers.NAME]"),
        (with_tower(family="openclip"), "'towers.clip.family' is 'openclip'; did you mean 'open_clip'?"),
        (with_tower(family=["open_clip"]), "'towers.clip.family' is ['open_clip']; did you mean 'open_clip'?"),
        (with_tower(pretraind="openai"), "unknown key 'towers.clip.pretraind'; did you mean 'pretrained'?"),
        (with_tower(model=14), "'towers.clip.model' must be text, got 14"),
        (
            {"towers": {"p": {"family": "transformers_clip", "max_tokens": "77"}}},
            "'towers.p.max_tokens' must be a whole number, got '77'",
        ),
        (with_scorer(tower="clip", head="cosin"), "'scorers.mine.head' is 'cosin'; did you mean 'cosine'?"),
        (with_scorer(tower="clap", head="cosine"), "'scorers.mine.tower' is 'clap'; did you mean 'clip'?"),
        (with_scorer(head="cosine"), "'scorers.mine.tower' is None; known: clip"),
        (
            with_scorer(tower="clip", head="cosine", weights="x"),
            "unknown key 'scorers.mine.weights'",
        ),
        (
            with_scorer("my-score", tower="clip", head="cosine"),
            "scorer 'my-score' names columns, so use letters, digits and _ only",
        ),
        (with_scorer(tower="clip", head="aesthetic"), "'scorers.mine.weights' is missing; aesthetic needs it"),
        (with_scorer(tower="clip", head="nsfw"), "'scorers.mine.weights' is missing; nsfw needs it"),
        (with_scorer(head="nsfw", weights="w.pth"), "'scorers.mine.tower' is None; known: clip"),
        (
            with_scorer(tower="clip", head="words", words="w.txt"),
            "'scorers.mine.tower' is 'clip', but words reads no embeddings; remove it",
        ),
        (
            with_scorer(head="image_reward", checkpoint="a.pt", tokenizer="./bert"),
            "'scorers.mine.med_config' is missing; image_reward needs it",
        ),
        ({"towers": {"h": {"family": "hpsv2"}}}, "'towers.h.checkpoint' is missing; hpsv2 needs it"),
    ],
)
def test_wrong_set_says_where_and_what(tmp_path: Path, content: dict[str, Any], message: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(ManifestError) as caught:
        load_model_set(path)
    assert str(caught.value) == f"{path}: {message}"


def test_unknown_set() -> None:
    with pytest.raises(ManifestError) as caught:
        load_model_set("publishd")
    assert str(caught.value) == "no set of models is named 'publishd'; did you mean 'published'?"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["clip", "pikscore"], "the models 'demo' have no scorer 'pikscore'; did you mean 'pickscore'?"),
        (["clip", "clip"], "--scorers names one twice: clip,clip"),
        ([], "--scorers names none; known: aesthetic, clip, hpsv2, nsfw_words, pickscore"),
    ],
)
def test_wrong_choice_of_scorers(names: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_model_set("demo").choose(names)
    assert str(caught.value) == message
