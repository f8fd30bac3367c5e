"""ImageReward: a BLIP that reads picture and prompt together, and the head that makes one number of it.

Source: Xu et al., arXiv 2304.05977; THUDM/ImageReward at c1392c6, ImageReward/ImageReward.py (preprocessing, the cut at
35 tokens, the head and the two constants) and ImageReward/models/BLIP (layout of `ImageReward.pt`). The model runs on
transformers' BLIP classes; benchmarks/parity/image_reward.py runs the authors' code beside it on equal weights.

A cross-encoder has no embedding to store: the picture is encoded once, then the text encoder attends to it once for
each of its prompts.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor
from transformers import BertTokenizer, BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

from curate.errors import ModelError
from curate.models.heads import AestheticHead, fold_linear_layers
from curate.models.model_set import ScorerSpec
from curate.models.scorers import Matched
from curate.models.towers.checkpoints import LOADING_ERRORS, read_checkpoint, unfilled, what_is_wrong
from curate.models.towers.hpsv2 import OPENAI_MEAN, OPENAI_STD
from curate.models.towers.precision import DTYPES, autocast, hold
from curate.models.weights import checked_sha256, repository, weights_file
from curate.storage.files import file_sha256

MAX_TOKENS = 35
MEAN, STD = 0.16717362830052426, 1.0333394966054072
HEAD_WIDTH = 64  # of the picture's attention, in BLIP-base and BLIP-large alike
TEXT_ROWS = 64  # (picture, prompt) rows of one pass of the text encoder
TEXT_KEYS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "vocab_size",
    "hidden_act",
    "layer_norm_eps",
)
# Published name -> transformers' name; the text encoder's names are equal.
VISION_NAMES = (
    (r"^cls_token$", "embeddings.class_embedding"),
    (r"^pos_embed$", "embeddings.position_embedding"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embedding."),
    (r"^blocks\.(\d+)\.attn\.proj\.", r"encoder.layers.\1.self_attn.projection."),
    (r"^blocks\.(\d+)\.attn\.", r"encoder.layers.\1.self_attn."),
    (r"^blocks\.(\d+)\.norm(\d)\.", r"encoder.layers.\1.layer_norm\2."),
    (r"^blocks\.", "encoder.layers."),
    (r"^norm\.", "post_layernorm."),
)


@dataclass(eq=False)
class ImageReward:
    """(mlp(text feature) - 0.16717) / 1.03334 for a picture and a prompt; about -2 to 2, unbounded."""

    vision: BlipVisionModel
    text: BlipTextModel
    head: AestheticHead
    preprocess: Compose
    tokenizer: BertTokenizer
    identity: dict[str, Any]
    device: str
    precision: str

    def __post_init__(self) -> None:
        for encoder in (self.vision, self.text):
            hold(encoder.eval().requires_grad_(False), self.device, self.precision)
        self.preprocessing = str(self.preprocess)

    @torch.inference_mode()
    def __call__(self, matched: Matched) -> torch.Tensor:
        """float32 (n,), on the CPU. Raises ModelError when a number is not finite."""
        with autocast(self.device, self.precision):
            states = self.vision(pixel_values=matched.pixels.to(self.device)).last_hidden_state
            states = states.to(DTYPES[self.precision])  # once, not in each layer that attends to them
            features = [
                self._features(states[matched.rows[start : start + TEXT_ROWS].to(self.device)], texts)
                for start in range(0, len(matched), TEXT_ROWS)
                if (texts := matched.texts[start : start + TEXT_ROWS])
            ]
        rewards = (self.head.of(torch.cat(features)) - MEAN) / STD
        if not bool(torch.isfinite(rewards).all()):
            raise ModelError("image_reward gave a number that is not finite; try --precision fp32")
        return rewards

    def _features(self, states: torch.Tensor, texts: list[str]) -> torch.Tensor:
        """The first token's feature, float32 (n, hidden) on the CPU; states: (n, patches + 1, width)."""
        tokens = self.tokenizer(
            texts, padding="max_length", truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
        ).to(self.device)
        found = self.text(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"], encoder_hidden_states=states
        )
        return found.last_hidden_state[:, 0].float().cpu()


def image_reward_transform(side_px: Any) -> Compose:
    """ImageReward's preprocessing: the short side resized to `side_px`, the middle cut out, CLIP's statistics."""
    resize = Resize(side_px, interpolation=InterpolationMode.BICUBIC)
    return Compose([resize, CenterCrop(side_px), ToTensor(), Normalize(OPENAI_MEAN, OPENAI_STD)])


def load_image_reward(spec: ScorerSpec, folder: Path, device: str, precision: str) -> ImageReward:
    """`checkpoint` in the layout of ImageReward.pt, `med_config` its text encoder's JSON, `tokenizer` a BERT's.

    Raises: ModelError naming the scorer and the file; ManifestError when a file is absent.
    """
    checkpoint = weights_file(spec.options["checkpoint"], folder, spec.options.get("sha256"))
    sha256 = checked_sha256(checkpoint, spec.options.get("sha256"))
    med_config = weights_file(spec.options["med_config"], folder)
    identity = {"checkpoint": spec.options["checkpoint"], "sha256": sha256}
    identity |= {"med_config_sha256": file_sha256(med_config)}
    identity |= {key: spec.options[key] for key in ("tokenizer", "tokenizer_revision") if key in spec.options}
    try:
        state = read_checkpoint(checkpoint)
        of_vision = _under(state, "blip.visual_encoder.")
        vision, transform = load_vision(of_vision), image_reward_transform(image_side_px(of_vision))
        text = load_text(_under(state, "blip.text_encoder."), json.loads(med_config.read_text()), vision.config)
        head = fold_linear_layers(_under(state, "mlp."))
        tokenizer = load_tokenizer(spec, folder, text.config.vocab_size)
    except KeyError as error:
        raise ModelError(f"scorer '{spec.name}': {checkpoint} or {med_config} lacks the key {error}") from error
    except LOADING_ERRORS as error:
        words = what_is_wrong(error)
        raise ModelError(f"scorer '{spec.name}' (image_reward) cannot be loaded from {checkpoint}: {words}") from error
    return ImageReward(vision, text, head, transform, tokenizer, identity, device, precision)


def load_vision(state: dict[str, torch.Tensor]) -> BlipVisionModel:
    """The picture's encoder from published names; its sizes are those of the weights."""
    width, patch_px = state["patch_embed.proj.weight"].shape[0], state["patch_embed.proj.weight"].shape[-1]
    depth = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("blocks."))
    config = BlipVisionConfig(
        hidden_size=width,
        intermediate_size=state["blocks.0.mlp.fc1.weight"].shape[0],
        num_hidden_layers=depth,
        num_attention_heads=width // HEAD_WIDTH,
        image_size=image_side_px(state),
        patch_size=patch_px,
        layer_norm_eps=1e-6,  # as the authors' VisionTransformer; transformers' default differs
    )
    with unfilled():
        model = BlipVisionModel(config)
    model.load_state_dict({vision_name(key): value.float() for key, value in state.items()}, assign=True)
    return model


def image_side_px(state: dict[str, torch.Tensor]) -> int:
    """Side of the square picture that the encoder's weights take: 224 as published."""
    patches = state["pos_embed"].shape[1] - 1  # the class token has a position too
    return round(patches**0.5) * int(state["patch_embed.proj.weight"].shape[-1])


def load_text(state: dict[str, torch.Tensor], med_config: dict[str, Any], vision: BlipVisionConfig) -> BlipTextModel:
    """The text encoder that attends to the picture, from published names and med_config.json."""
    stated: dict[str, Any] = {key: med_config[key] for key in TEXT_KEYS}
    stated |= dict.fromkeys(("bos_token_id", "eos_token_id", "sep_token_id"))  # nothing is generated
    # is_decoder here means: with cross-attention
    config = BlipTextConfig(**stated, encoder_hidden_size=vision.hidden_size, is_decoder=True)
    with unfilled():
        model = BlipTextModel(config, add_pooling_layer=False)
    wanted = {key: value.float() for key, value in state.items() if key != "embeddings.position_ids"}  # a constant
    model.load_state_dict(wanted, assign=True)
    return model


def vision_name(key: str) -> str:
    """The name in transformers' BlipVisionModel of one in the authors' VisionTransformer."""
    for pattern, name in VISION_NAMES:
        if re.match(pattern, key):
            return re.sub(pattern, name, key)
    return key


def load_tokenizer(spec: ScorerSpec, folder: Path, vocabulary: int) -> BertTokenizer:
    """A BERT's tokenizer with BLIP's two tokens. Raises ModelError when the weights have fewer rows than it tokens."""
    name = spec.options["tokenizer"]
    path, _ = repository(name, folder, spec.options.get("tokenizer_revision"))
    tokenizer = BertTokenizer.from_pretrained(path)
    tokenizer.add_special_tokens({"bos_token": "[DEC]"})
    tokenizer.add_special_tokens({"additional_special_tokens": ["[ENC]"]})
    if len(tokenizer) > vocabulary:
        raise ModelError(f"the tokenizer {name} has {len(tokenizer)} tokens, the weights of '{spec.name}' {vocabulary}")
    return tokenizer


def _under(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The tensors below a prefix, without it. Raises: ValueError when there are none."""
    found = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    if not found:
        raise ValueError(f"no '{prefix}…' among its keys")
    return found
