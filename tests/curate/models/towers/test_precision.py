"""Half precision: what is held in it, that holding changes no value, and which attention runs."""

import copy
import logging
from collections import Counter
from collections.abc import Iterator
from typing import Any

import open_clip
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import CLIPConfig, CLIPModel

from curate.models.model_set import load_model_set
from curate.models.scoring import load_scoring
from curate.models.towers.precision import autocast, hold, memory_format
from tests.curate.builders import MODELS

SIDE = 32
VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "patch_size": 8}


@pytest.fixture
def open_clip_tower() -> Iterator[Any]:
    torch.manual_seed(0)
    level = logging.getLogger().level
    vision = {"image_size": SIDE, "layers": 2, "width": 64, "head_width": 16, "patch_size": 8}
    text = {"context_length": 16, "vocab_size": 100, "width": 32, "heads": 2, "layers": 1}
    yield open_clip.CLIP(32, vision, text).eval().requires_grad_(False)
    logging.getLogger().setLevel(level)


@pytest.fixture
def transformers_tower() -> CLIPModel:
    torch.manual_seed(0)
    text = {key: value for key, value in VISION.items() if key != "patch_size"}
    config = CLIPConfig(vision_config=VISION | {"image_size": SIDE}, text_config=text, projection_dim=32)
    return CLIPModel(config).eval().requires_grad_(False)


class Operators(TorchDispatchMode):
    """Counts what torch really computes."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()
        self.to_half = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen[func.overloadpacket.__name__] += 1
        self.to_half += func is torch.ops.aten._to_copy.default and kwargs["dtype"] == torch.bfloat16
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@torch.inference_mode()
def test_holding_an_open_clip_tower_in_half_precision_changes_no_bit(open_clip_tower: Any, precision: str) -> None:
    pixels = torch.randn(3, 3, SIDE, SIDE)
    held = copy.deepcopy(open_clip_tower.visual)
    hold(held, "cpu", precision)
    with autocast("cpu", precision):
        assert torch.equal(held(pixels), open_clip_tower.visual(pixels))


@torch.inference_mode()
def test_holding_a_transformers_tower_in_half_precision_changes_no_bit(transformers_tower: CLIPModel) -> None:
    pixels = torch.randn(3, 3, SIDE, SIDE)
    held = copy.deepcopy(transformers_tower)
    hold(held.vision_model, "cpu", "bf16")
    hold(held.visual_projection, "cpu", "bf16")
    with autocast("cpu", "bf16"):
        ours, theirs = (one.get_image_features(pixel_values=pixels).pooler_output for one in (held, transformers_tower))
    assert torch.equal(ours, theirs)


@torch.no_grad()  # in inference mode a cast is no operator
def test_states_are_cast_once_for_queries_keys_and_values(transformers_tower: CLIPModel) -> None:
    """Of each of two layers: for attention and for the MLP; and the patches' and the projection's."""
    pixels = torch.randn(3, 3, SIDE, SIDE)
    held = copy.deepcopy(transformers_tower)
    hold(held.vision_model, "cpu", "bf16")
    hold(held.visual_projection, "cpu", "bf16")
    with autocast("cpu", "bf16"), Operators() as counted:
        held.get_image_features(pixel_values=pixels)
    assert counted.to_half == 2 * 2 + 2


def test_matrices_are_held_in_half_precision_and_nothing_else(open_clip_tower: Any) -> None:
    hold(open_clip_tower.visual, "cpu", "bf16")
    held = {name: value.dtype for name, value in open_clip_tower.visual.named_parameters()}
    matrices = {name for name, dtype in held.items() if dtype == torch.bfloat16}
    assert {"conv1.weight", "transformer.resblocks.0.attn.in_proj_weight", "transformer.resblocks.1.mlp.c_fc.bias"} <= (
        matrices
    )
    assert all(".ln_" not in name and not name.startswith("ln_") and "embedding" not in name for name in matrices)
    assert {value.dtype for value in open_clip_tower.transformer.parameters()} == {torch.float32}


def test_the_demos_towers_in_half_precision_are_near_float32() -> None:
    models = load_model_set(MODELS)
    chosen = models.choose(["clip", "pickscore", "hpsv2"])
    exact, half = (load_scoring(models, chosen, "cpu", precision) for precision in ("fp32", "bf16"))
    pixels = {key: torch.randn(4, 3, 64, 64) for key in exact.preprocessors}
    for name, values in half.embed_images(pixels).items():
        assert values.dtype == torch.float32
        cosine = (values * exact.embed_images(pixels)[name]).sum(dim=1)
        assert cosine.min() > 0.999
        assert not torch.equal(values, exact.embed_images(pixels)[name])


@torch.inference_mode()
def test_attention_is_one_fused_operator(open_clip_tower: Any, transformers_tower: CLIPModel) -> None:
    """In float32 open_clip's blocks take torch's native one, which itself picks a fused kernel on a GPU."""
    pixels = torch.randn(2, 3, SIDE, SIDE)
    assert transformers_tower.config._attn_implementation == "sdpa"
    with Operators() as plain:
        open_clip_tower.visual(pixels)
    assert plain.seen["_native_multi_head_attention"] == 2
    for forward in (open_clip_tower.visual, lambda values: transformers_tower.get_image_features(pixel_values=values)):
        with Operators() as half, autocast("cpu", "bf16"):
            forward(pixels)
        assert sum(count for name, count in half.seen.items() if "scaled_dot_product" in name) == 2
        assert half.seen["_softmax"] == half.seen["bmm"] == 0


def test_channels_last_on_tensor_cores_alone() -> None:
    assert memory_format("cuda:1", "bf16") == torch.channels_last
    assert memory_format("cuda", "fp32") == memory_format("cpu", "bf16") == torch.contiguous_format


@torch.inference_mode()
def test_float32_is_not_tf32(open_clip_tower: Any) -> None:
    """cuDNN's convolutions are in TF32 unless told otherwise, on every GPU since Ampere."""
    assert torch.backends.cudnn.allow_tf32
    seen: list[bool] = []
    open_clip_tower.visual.conv1.register_forward_hook(lambda *_: seen.append(torch.backends.cudnn.allow_tf32))
    for precision in ("fp32", "bf16"):
        with autocast("cpu", precision):
            open_clip_tower.visual(torch.randn(1, 3, SIDE, SIDE))
    assert seen == [False, True]
    assert torch.backends.cudnn.allow_tf32


def test_prompts_are_in_float32_whatever_the_pictures_are_in() -> None:
    models = load_model_set(MODELS)
    chosen = models.choose(["clip", "pickscore", "hpsv2"])
    exact, half = (load_scoring(models, chosen, "cpu", precision) for precision in ("fp32", "bf16"))
    for name, values in half.embed_prompts(["a red circle", ""]).items():
        assert torch.equal(values, exact.embed_prompts(["a red circle", ""])[name])
