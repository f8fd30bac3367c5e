"""ImageReward's own code beside ours on equal random weights: the largest difference of any score.

    python -m benchmarks.parity.image_reward --peer CHECKOUT_OF_IMAGEREWARD --peer-python PYTHON

PYTHON is one that runs the authors' code: their BLIP needs an older transformers (4.36 does) and timm. What is put in
place of their own imports and sizes is named in `peer_model`; nothing of their code is copied here. Weights are drawn
from a seed in the layout of ImageReward.pt, small by default; --published-size draws BLIP-large's 448 million.
"""

import argparse
import contextlib
import importlib
import io
import json
import os
import subprocess
import sys
import tempfile
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

WORDS = ("a", "red", "blue", "circle", "square", "above", "below", "the", "of", "number", "un", "##related", ".", ",")
VOCABULARY = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *(f"##{letter}" for letter in "abcdefgz"), "z", "é")
PROMPTS = (
    "a red circle above the blue square",
    "A RED circle, unrelated.",
    "zzz abc é",
    "",
    "the number of a red circle " * 20,
    "[ENC] a blue square [DEC]",
)
HEAD_WIDTHS = (1024, 128, 64, 16, 1)


@dataclass(frozen=True)
class Sizes:
    """Widths and depths of picture and text encoder; one vision head is 64 wide."""

    vision_width: int = 128
    vision_depth: int = 2
    text_width: int = 48
    text_depth: int = 2
    text_heads: int = 4
    text_inner: int = 96
    vocabulary: int = len(VOCABULARY) + 2
    side_px: int = 224

    def med_config(self) -> dict[str, Any]:
        """The keys of the published med_config.json."""
        return {
            "architectures": ["BertModel"], "attention_probs_dropout_prob": 0.1, "hidden_act": "gelu",
            "hidden_dropout_prob": 0.1, "hidden_size": self.text_width, "initializer_range": 0.02,
            "intermediate_size": self.text_inner, "layer_norm_eps": 1e-12, "max_position_embeddings": 512,
            "model_type": "bert", "num_attention_heads": self.text_heads, "num_hidden_layers": self.text_depth,
            "pad_token_id": 0, "add_type_embeddings": False, "vocab_size": self.vocabulary,
            "encoder_width": 768, "add_cross_attention": True,
        }  # fmt: skip


PUBLISHED = Sizes(1024, 24, 768, 12, 12, 3072, 30524)


def random_state(sizes: Sizes, seed: int) -> dict[str, torch.Tensor]:
    """Weights in the layout of ImageReward.pt, equal on every machine; layers keep the size of what they read."""
    random = torch.Generator().manual_seed(seed)
    return {key: _drawn(key, shape, random) for key, shape in sorted(_shapes(sizes).items())}


def write_models(folder: Path, sizes: Sizes, seed: int) -> None:
    """ImageReward.pt, med_config.json and the tokenizer's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(random_state(sizes, seed), folder / "ImageReward.pt")
    (folder / "med_config.json").write_text(json.dumps(sizes.med_config()))
    (folder / "bert-base-uncased").mkdir(exist_ok=True)
    (folder / "bert-base-uncased" / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    (folder / "bert-base-uncased" / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}))


def write_pictures(folder: Path) -> list[Path]:
    """Four PNGs of several shapes, each with its own smooth gradients."""
    paths = []
    for index, size in enumerate([(224, 224), (320, 200), (100, 180), (512, 512)]):
        random = torch.Generator().manual_seed(index)
        coarse = torch.randint(0, 256, (6, 5, 3), generator=random, dtype=torch.uint8).numpy()
        paths.append(folder / f"{index}.png")
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(paths[-1])
    return paths


def our_scores(folder: Path, pictures: list[Path]) -> list[list[float]]:
    """A row for each picture, a column for each of PROMPTS."""
    from curate.models.image_reward import load_image_reward
    from curate.models.model_set import ScorerSpec
    from curate.models.scorers import Matched

    options = {"checkpoint": "ImageReward.pt", "med_config": "med_config.json", "tokenizer": "./bert-base-uncased"}
    scorer = load_image_reward(ScorerSpec("image_reward", None, "image_reward", options), folder, "cpu", "fp32")
    pixels = torch.stack([scorer.preprocess(Image.open(path).convert("RGB")) for path in pictures])
    rows = torch.arange(len(pictures)).repeat_interleave(len(PROMPTS))
    scores = scorer(Matched(list(PROMPTS) * len(pictures), None, (pixels, rows)))
    return scores.reshape(len(pictures), len(PROMPTS)).tolist()


def peer_scores(checkout: Path, folder: Path, pictures: list[Path]) -> list[list[float]]:
    """The same by the authors' `ImageReward.score`, one picture and one prompt at a time."""
    os.chdir(folder)  # their tokenizer is looked for as "bert-base-uncased"
    model = peer_model(checkout, json.loads(Path("med_config.json").read_text()))
    model.load_state_dict(torch.load("ImageReward.pt", map_location="cpu"), strict=True)
    model.eval()
    with torch.no_grad():
        return [[model.score(prompt, Image.open(path)) for prompt in PROMPTS] for path in pictures]


def peer_model(checkout: Path, med_config: dict[str, Any]) -> Any:
    """The authors' model class. Put in its place: the packages' __init__ (they import OpenAI's clip), fairscale's
    checkpoint_wrapper (for training alone), and for small sizes the picture encoder's and the head's widths."""
    for name, path in (("peer", "ImageReward"), ("peer.models", "ImageReward/models")):
        package = types.ModuleType(name)
        package.__path__ = [str(checkout / path)]
        sys.modules[name] = package
    for name in ("fairscale", "fairscale.nn", "fairscale.nn.checkpoint"):
        sys.modules[name] = types.ModuleType(name)
    wrapper: Any = types.ModuleType("fairscale.nn.checkpoint.checkpoint_activations")
    wrapper.checkpoint_wrapper = lambda module: module
    sys.modules[wrapper.__name__] = wrapper
    module: Any = importlib.import_module("peer.ImageReward")
    if (width := med_config["hidden_size"]) != PUBLISHED.text_width:
        blip: Any = importlib.import_module("peer.models.BLIP.blip_pretrain")
        sizes, head = Sizes(), module.MLP
        encoder = importlib.import_module("peer.models.BLIP.vit").VisionTransformer
        small = encoder(
            img_size=sizes.side_px, embed_dim=sizes.vision_width, depth=sizes.vision_depth,
            num_heads=sizes.vision_width // 64,
        )  # fmt: skip
        blip.create_vit = lambda *_: (small, sizes.vision_width)
        module.MLP = lambda _: head(width)
    return module.ImageReward("med_config.json")


def main() -> None:
    """Print a table, then one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, required=True)
    parser.add_argument("--peer-python", type=Path, default=Path(sys.executable))
    parser.add_argument("--published-size", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--as-peer", type=Path, help=argparse.SUPPRESS)  # the folder that the other side wrote
    options = parser.parse_args()
    if options.as_peer:
        with contextlib.redirect_stdout(io.StringIO()):
            scores = peer_scores(options.peer, options.as_peer, sorted(options.as_peer.glob("*.png")))
        print(json.dumps(scores))
        return
    commit = ["git", "-C", str(options.peer), "rev-parse", "HEAD"]
    version = subprocess.run(commit, capture_output=True, text=True, check=False).stdout.strip()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_models(folder, PUBLISHED if options.published_size else Sizes(), options.seed)
        ours = our_scores(folder, write_pictures(folder))
        command = [options.peer_python, __file__, "--peer", options.peer.resolve(), "--as-peer", folder]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    theirs = json.loads(done.stdout.splitlines()[-1])
    print(*(" ".join(f"{value:+9.6f}" for value in row) for row in theirs), sep="\n")
    largest = (torch.tensor(ours, dtype=torch.float64) - torch.tensor(theirs, dtype=torch.float64)).abs().max().item()
    count = len(PROMPTS) * len(theirs)
    print(f"{count} (picture, prompt) rows, largest difference {largest:g} (peer {version or 'of unknown version'})")
    report = {"benchmark": "parity_image_reward", "rows": count, "largest": largest, "scores": theirs, "peer": version}
    print(json.dumps(report))


def _shapes(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """Every key of ImageReward.pt with its shape."""
    vision, text, inner = sizes.vision_width, sizes.text_width, sizes.text_inner
    shapes: dict[str, tuple[int, ...]] = {
        "blip.visual_encoder.cls_token": (1, 1, vision),
        "blip.visual_encoder.pos_embed": (1, (sizes.side_px // 16) ** 2 + 1, vision),
        "blip.visual_encoder.patch_embed.proj.weight": (vision, 3, 16, 16),
        "blip.visual_encoder.patch_embed.proj.bias": (vision,),
        "blip.text_encoder.embeddings.position_ids": (1, 512),
        "blip.text_encoder.embeddings.word_embeddings.weight": (sizes.vocabulary, text),
        "blip.text_encoder.embeddings.position_embeddings.weight": (512, text),
    }
    pairs: dict[str, tuple[int, ...]] = {
        "blip.visual_encoder.norm": (vision,),
        "blip.text_encoder.embeddings.LayerNorm": (text,),
        "blip.vision_proj": (256, vision),
        "blip.text_proj": (256, text),
    }
    for block in (f"blip.visual_encoder.blocks.{index}" for index in range(sizes.vision_depth)):
        pairs |= {f"{block}.norm1": (vision,), f"{block}.norm2": (vision,), f"{block}.attn.qkv": (3 * vision, vision)}
        pairs |= {f"{block}.attn.proj": (vision, vision), f"{block}.mlp.fc1": (4 * vision, vision)}
        pairs |= {f"{block}.mlp.fc2": (vision, 4 * vision)}
    for layer in (f"blip.text_encoder.encoder.layer.{index}" for index in range(sizes.text_depth)):
        for attention, read in ((f"{layer}.attention", text), (f"{layer}.crossattention", vision)):
            pairs |= {f"{attention}.self.query": (text, text), f"{attention}.output.dense": (text, text)}
            pairs |= {f"{attention}.self.key": (text, read), f"{attention}.self.value": (text, read)}
            pairs |= {f"{attention}.output.LayerNorm": (text,)}
        pairs |= {f"{layer}.intermediate.dense": (inner, text), f"{layer}.output.dense": (text, inner)}
        pairs |= {f"{layer}.output.LayerNorm": (text,)}
    for index, width, read in zip((0, 2, 4, 6, 7), HEAD_WIDTHS, (text, *HEAD_WIDTHS), strict=False):
        pairs |= {f"mlp.layers.{index}": (width, read)}
    for name, shape in pairs.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return shapes


def _drawn(key: str, shape: tuple[int, ...], random: torch.Generator) -> torch.Tensor:
    if key.endswith("position_ids"):
        return torch.arange(shape[1]).expand(shape)
    if len(shape) == 1:
        return 0.1 * torch.randn(shape, generator=random) + (1.0 if "orm" in key and key.endswith("weight") else 0.0)
    fan_in = 1 if "embed" in key and "patch" not in key else torch.Size(shape[1:]).numel()
    return torch.randn(shape, generator=random) * (0.5 if "cls_token" in key else fan_in**-0.5)


if __name__ == "__main__":
    main()
