"""Sets of towers of published architectures with random weights, saved once in a folder in the published layouts."""

import json
import shutil
from pathlib import Path
from typing import Any

import open_clip
import tomli_w
import torch
from open_clip.transform import PreprocessCfg
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPModel

from curate.models.model_set import load_model_set
from curate.models.scoring import Scoring, load_scoring
from curate.models.towers.checkpoints import quiet

DEMO_TOKENIZER = Path(__file__).parents[2] / "data_manifests" / "demo" / "models" / "pickscore"
PROCESSOR = {
    "image_processor_type": "CLIPImageProcessor",
    "size": {"shortest_edge": 224},
    "crop_size": {"height": 224, "width": 224},
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}


def random_towers(folder: Path, clip: str, others: str | None = None, device: str = "cpu") -> Path:
    """A set of models: CLIP of architecture `clip`; with `others` PickScore and HPSv2 of that one, too.

    Filled with random numbers on `device`: a GPU does in a second what takes a CPU a minute.
    """
    with torch.device(device):
        return _random_towers(folder, clip, others)


def _random_towers(folder: Path, clip: str, others: str | None) -> Path:
    towers = {"clip": _open_clip(folder / "clip", clip)}
    scorers = {"clip": {"tower": "clip", "head": "cosine"}}
    if others:
        towers |= {"pickscore": _transformers(folder / "pickscore", others), "hpsv2": _hpsv2(folder, others)}
        scorers |= {
            "pickscore": {"tower": "pickscore", "head": "scaled_cosine"},
            "hpsv2": {"tower": "hpsv2", "head": "cosine"},
        }
    path = folder / "models.toml"
    path.write_text(tomli_w.dumps({"towers": towers, "scorers": scorers}))
    return path


def load(path: Path, device: str, precision: str) -> Scoring:
    """All scorers of a set."""
    models = load_model_set(str(path))
    return load_scoring(models, models.choose(list(models.scorers)), device, precision)


def _model(architecture: str) -> torch.nn.Module:
    torch.manual_seed(0)
    with quiet():
        return open_clip.create_model(architecture, load_weights=False, device=torch.get_default_device())


def _open_clip(folder: Path, architecture: str) -> dict[str, str]:
    folder.mkdir(parents=True)
    state = {key: value.contiguous() for key, value in _model(architecture).state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    config = {"model_cfg": open_clip.get_model_config(architecture), "preprocess_cfg": vars(PreprocessCfg())}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return {"family": "open_clip", "folder": str(folder)}


def _hpsv2(folder: Path, architecture: str) -> dict[str, str]:
    path = folder / "hpsv2.pt"
    torch.save({"state_dict": _model(architecture).state_dict()}, path)
    return {"family": "hpsv2", "model": architecture, "checkpoint": str(path)}


def _transformers(folder: Path, architecture: str) -> dict[str, str]:
    torch.manual_seed(0)
    CLIPModel(transformers_config(open_clip.get_model_config(architecture))).save_pretrained(folder)
    copy_tokenizer(folder)
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": PROCESSOR}))
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return {"family": "transformers_clip", "model": str(folder)}


def copy_tokenizer(folder: Path) -> None:
    """The demo's: what a tower costs does not depend on the words."""
    for file in DEMO_TOKENIZER.glob("tokenizer*"):
        shutil.copy(file, folder)


def transformers_config(described: dict[str, Any]) -> CLIPConfig:
    """The architecture that open_clip describes, in transformers' words."""
    vision, text = described["vision_cfg"], described["text_cfg"]
    return CLIPConfig(
        vision_config={
            "hidden_size": vision["width"],
            "intermediate_size": 4 * vision["width"],
            "num_hidden_layers": vision["layers"],
            "num_attention_heads": vision["width"] // vision.get("head_width", 64),
            "patch_size": vision["patch_size"],
            "image_size": vision["image_size"],
        },
        text_config={
            "hidden_size": text["width"],
            "intermediate_size": 4 * text["width"],
            "num_hidden_layers": text["layers"],
            "num_attention_heads": text["heads"],
        },
        projection_dim=described["embed_dim"],
    )
