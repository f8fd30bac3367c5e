"""ImageReward against its authors' code: numbers that it gave on weights and pictures made from seeds."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from benchmarks.parity.image_reward import PROMPTS, Sizes, our_scores, random_state, write_models, write_pictures
from curate.errors import ModelError
from curate.models import image_reward
from curate.models.image_reward import ImageReward, image_reward_transform, load_image_reward, vision_name
from curate.models.model_set import ScorerSpec, load_model_set
from curate.models.scorers import Matched
from curate.models.scoring import load_scoring
from tests.curate.builders import Outcome, picture_bytes

OPTIONS = {"checkpoint": "ImageReward.pt", "med_config": "med_config.json", "tokenizer": "./bert-base-uncased"}
# python -m benchmarks.parity.image_reward --seed 0, THUDM/ImageReward at c1392c6 on transformers 4.36.2, timm 0.9.16:
# a row for each picture of `write_pictures`, a column for each of PROMPTS.
AUTHORS = [
    [-0.16321057, -0.17865109, -0.50637031, 0.63394171, 0.09781049, -0.37601513],
    [-0.19220564, -0.16522603, -0.47334230, 0.45033894, -0.03665864, -0.35606730],
    [0.05972817, -0.08794666, -0.47643980, 0.70237780, 0.28919959, -0.33305672],
    [-0.24020803, -0.29958495, -0.49135521, 0.54809743, -0.11929135, -0.34819928],
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("image_reward")
    write_models(made, Sizes(), 0)
    return made


@pytest.fixture(scope="module")
def scorer(folder: Path) -> ImageReward:
    return load_image_reward(ScorerSpec("image_reward", None, "image_reward", OPTIONS), folder, "cpu", "fp32")


def load(folder: Path, **changes: str) -> ImageReward:
    spec = ScorerSpec("image_reward", None, "image_reward", OPTIONS | changes)
    return load_image_reward(spec, folder, "cpu", "fp32")


def pictures(scorer: ImageReward, count: int) -> torch.Tensor:
    found = [Image.open(io.BytesIO(picture_bytes(seed, (64, 48)))).convert("RGB") for seed in range(count)]
    return torch.stack([scorer.preprocess(picture) for picture in found])


def test_scores_are_those_of_the_authors_code(folder: Path, tmp_path: Path) -> None:
    np.testing.assert_allclose(our_scores(folder, write_pictures(tmp_path)), AUTHORS, atol=1e-5)


def test_a_picture_is_encoded_once_for_all_its_prompts(scorer: ImageReward, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[int] = []
    forward = scorer.vision.forward

    def counting(pixel_values: torch.Tensor) -> object:
        encoded.append(len(pixel_values))
        return forward(pixel_values=pixel_values)

    monkeypatch.setattr(scorer.vision, "forward", counting)
    monkeypatch.setattr(image_reward, "TEXT_ROWS", 2)  # five rows are three passes of the text encoder
    rows = torch.tensor([0, 0, 0, 1, 1])
    texts = ["a red circle", "a blue square", "the", "a red circle", "number"]
    together = scorer(Matched(texts, None, (pictures(scorer, 2), rows)))
    assert encoded == [2]
    monkeypatch.undo()
    for index, (text, row) in enumerate(zip(texts, rows.tolist(), strict=True)):
        alone = scorer(Matched([text], None, (pictures(scorer, 2)[row : row + 1], torch.tensor([0]))))
        torch.testing.assert_close(alone[0], together[index], atol=1e-5, rtol=0)


def test_prompts_are_cut_at_35_tokens(scorer: ImageReward) -> None:
    words = ["red", "blue", "circle"] * 20
    kept, changed = " ".join(words[:33]), " ".join([*words[:33], "square"])  # 33 words, [CLS] and [SEP]
    other = " ".join([*words[:32], "square"])
    pixels = pictures(scorer, 1)
    scores = scorer(Matched([kept, changed, other], None, (pixels, torch.zeros(3, dtype=torch.long))))
    assert abs(scores[0] - scores[1]) < 1e-6
    assert abs(scores[0] - scores[2]) > 1e-4


def test_half_precision_is_near_float32(folder: Path, scorer: ImageReward) -> None:
    spec = ScorerSpec("image_reward", None, "image_reward", OPTIONS)
    half = load_image_reward(spec, folder, "cpu", "bf16")
    matched = Matched(["a red circle", "the blue square"], None, (pictures(scorer, 2), torch.tensor([0, 1])))
    found, expected = half(matched), scorer(matched)
    assert found.dtype == torch.float32
    assert 0 < (found - expected).abs().max() < 0.05


def test_the_middle_of_a_wide_picture_is_seen() -> None:
    picture = Image.new("RGB", (672, 224), "black")
    picture.paste((255, 255, 255), (220, 0, 452, 224))
    pixels = image_reward_transform(224)(picture)
    assert pixels.shape == (3, 224, 224)
    torch.testing.assert_close(pixels[0], torch.full((224, 224), (1 - 0.48145466) / 0.26862954))


@pytest.mark.parametrize(
    ("published", "name"),
    [
        ("cls_token", "embeddings.class_embedding"),
        ("patch_embed.proj.bias", "embeddings.patch_embedding.bias"),
        ("blocks.11.attn.qkv.weight", "encoder.layers.11.self_attn.qkv.weight"),
        ("blocks.2.attn.proj.bias", "encoder.layers.2.self_attn.projection.bias"),
        ("blocks.0.norm2.weight", "encoder.layers.0.layer_norm2.weight"),
        ("blocks.3.mlp.fc1.weight", "encoder.layers.3.mlp.fc1.weight"),
        ("norm.weight", "post_layernorm.weight"),
    ],
)
def test_published_names_have_one_of_transformers(published: str, name: str) -> None:
    assert vision_name(published) == name


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("blip.text_encoder.encoder.layer.1.crossattention.self.key.bias", "crossattention.self.key.bias"),
        ("blip.visual_encoder.blocks.1.norm1.bias", "encoder.layers.1.layer_norm1.bias"),
        ("mlp.", "no 'mlp.…' among its keys"),
        ("blip.", "no 'blip.visual_encoder.…' among its keys"),
    ],
)
def test_lacking_weights_are_named(folder: Path, tmp_path: Path, lost: str, message: str) -> None:
    state = {key: value for key, value in random_state(Sizes(), 0).items() if not key.startswith(lost)}
    torch.save(state, tmp_path / "cut.pt")
    with pytest.raises(ModelError) as caught:
        load(folder, checkpoint=str(tmp_path / "cut.pt"))
    assert str(caught.value).startswith(
        f"scorer 'image_reward' (image_reward) cannot be loaded from {tmp_path}/cut.pt:"
    )
    assert message in str(caught.value)


def test_what_is_no_checkpoint_and_no_config_is_refused(folder: Path, tmp_path: Path) -> None:
    torch.save(torch.zeros(3), tmp_path / "tensor.pt")
    with pytest.raises(ModelError, match=r"cannot be loaded from .*tensor\.pt: "):
        load(folder, checkpoint=str(tmp_path / "tensor.pt"))
    (tmp_path / "med.json").write_text('{"hidden_size": 48}')
    with pytest.raises(ModelError, match=r"ImageReward\.pt or .*med\.json lacks the key 'intermediate_size'"):
        load(folder, med_config=str(tmp_path / "med.json"))


def test_a_checkpoint_with_code_is_refused(folder: Path, tmp_path: Path) -> None:
    torch.save({"mlp.layers.0.weight": Path("code")}, tmp_path / "pickled.pt")
    with pytest.raises(ModelError, match=r"pickled\.pt: its checkpoint holds more than tensors, and unpickling"):
        load(folder, checkpoint=str(tmp_path / "pickled.pt"))


def test_a_tokenizer_of_more_tokens_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text((folder / "bert-base-uncased" / "vocab.txt").read_text() + "one\nmore\n")
    with pytest.raises(ModelError, match=r"has 33 tokens, the weights of 'image_reward' 31"):
        load(folder, tokenizer=str(tmp_path))


def test_stated_sha256_is_held(folder: Path) -> None:
    with pytest.raises(Exception, match="the set of models states 0000"):
        load(folder, sha256="0" * 64)


def write_set(folder: Path) -> Path:
    lines = ["[scorers.image_reward]", 'head = "image_reward"', *(f'{key} = "{OPTIONS[key]}"' for key in OPTIONS)]
    (folder / "image_reward.toml").write_text("\n".join(lines))
    return folder / "image_reward.toml"


def test_a_run_without_a_tower(folder: Path, tmp_path: Path, source_file: Path, curate: Callable[..., Outcome]) -> None:
    """embed, rank and search: one column of scores, no embedding, what runs.toml states."""
    run = tmp_path / "run"
    options = ["--manifest", "pickapic_v2", "--source", source_file, "--models", write_set(folder)]
    embed = ["embed", *options, "--scorers", "image_reward", "--device", "cpu", "--run", run]
    done = curate(*embed, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["scorers"] == ["image_reward"]
    scores = pq.read_table(run / "scores")
    assert scores.schema.names == ["prompt_id", "image_uid", "image_reward_score"]
    for table in ("images", "prompts"):
        assert not [name for name in pq.read_table(run / table).schema.names if name.endswith("_embedding")]
    (run / "parts" / "part-00000.json").unlink()
    assert curate(*embed).code == 0
    assert pq.read_table(run / "scores").equals(scores)
    done = curate("rank", "--run", run, "--psi", "image_reward", "--top", "5")
    assert done.code == 0, done.err
    done = curate("search", "a red circle", "--run", run)
    assert (done.code, done.err) == (
        2,
        f"curate: {run} was embedded without a tower, so there is nothing to search by; add a scorer with one\n",
    )


def test_it_stands_beside_towers(folder: Path) -> None:
    """Its preprocessing is one more, its picture's embedding none."""
    models, demo = load_model_set(str(write_set(folder))), load_model_set("demo")
    scoring = load_scoring(demo, demo.choose(["clip"]), "cpu", "fp32")
    reward = load_scoring(models, models.choose(["image_reward"]), "cpu", "fp32")
    both = type(scoring)(scoring.towers, scoring.heads | reward.heads, {}, "both")
    assert list(both.dimensions) == ["clip"]
    assert len(both.preprocess(Image.new("RGB", (50, 40)))) == 2


def test_every_prompt_and_picture_matters() -> None:
    """The numbers that the other tests compare differ by far more than they may."""
    assert len(PROMPTS) == len(AUTHORS[0])
    for values in (*AUTHORS, *zip(*AUTHORS, strict=True)):
        assert max(values) - min(values) > 0.01
