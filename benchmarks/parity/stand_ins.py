"""The published models with random weights: their files' names, keys, shapes, number formats and containers.

    python -m benchmarks.parity.stand_ins FOLDER [--only hpsv2] [--small] [--load]

writes the weights of every scorer of `published` and a set of models, FOLDER/models.toml, that names them as files of
this machine; what `curate embed --models FOLDER/models.toml` then does is what it does with the published ones, but for
the numbers. --small keeps keys and containers and makes every width and depth small. --load loads each in turn and
prints its seconds and what memory it took. At full size 10 GB are written; never commit them.

Two things are not known from the files themselves: HPSv2's number format (float16 here, which takes more to load), and
tokenizers, which are the demo's and a few words.
"""

import argparse
import copy
import json
import resource
import shutil
import time
from pathlib import Path
from typing import Any

import open_clip
import tomli_w
import torch
from open_clip.transform import PreprocessCfg
from safetensors.torch import save_file
from transformers import CLIPModel

from benchmarks.parity.image_reward import PUBLISHED, Sizes, write_models
from benchmarks.speed.random_towers import PROCESSOR, copy_tokenizer, transformers_config

POOL = torch.randn(1 << 20, generator=torch.Generator().manual_seed(0))
CHECKPOINT = "HPS_v2.1_compressed.pt"
AESTHETIC = {0: (1024, 768), 2: (128, 1024), 4: (64, 128), 6: (16, 64), 7: (1, 16)}
NSFW = {1: (64, 768), 2: (512, 64), 3: (256, 512), 4: (1, 256)}
SCORERS: dict[str, dict[str, Any]] = {
    "clip": {"tower": "clip", "head": "cosine"},
    "pickscore": {"tower": "pickscore", "head": "scaled_cosine"},
    "hpsv2": {"tower": "hpsv2", "head": "cosine"},
    "aesthetic": {"tower": "clip", "head": "aesthetic", "weights": "sac+logos+ava1-l14-linearMSE.pth"},
    "nsfw": {"tower": "clip", "head": "nsfw", "weights": "clip_autokeras_binary_nsfw.pth"},
    "image_reward": {
        "head": "image_reward",
        "checkpoint": "image_reward/ImageReward.pt",
        "med_config": "image_reward/med_config.json",
        "tokenizer": "./image_reward/bert-base-uncased",
    },
}


def write_stand_ins(folder: Path, scorers: list[str], small: bool = False) -> Path:
    """The weights of these scorers below `folder`; the set of models that names them."""
    folder.mkdir(parents=True, exist_ok=True)
    towers = {tower: TOWERS[tower](folder, small) for name in scorers if (tower := SCORERS[name].get("tower"))}
    for name, layers in (("aesthetic", AESTHETIC), ("nsfw", NSFW)):
        if name in scorers:
            torch.save(_head(name, layers), folder / SCORERS[name]["weights"])
    if "image_reward" in scorers:
        write_models(folder / "image_reward", Sizes() if small else PUBLISHED, 0)
    path = folder / "models.toml"
    path.write_text(tomli_w.dumps({"towers": towers, "scorers": {name: SCORERS[name] for name in scorers}}))
    return path


def _config(architecture: str, small: bool) -> dict[str, Any]:
    """open_clip's own; the small one of two layers and two heads gives embeddings of the same length."""
    config = copy.deepcopy(open_clip.get_model_config(architecture))
    if small:
        width = 2 * config["vision_cfg"].get("head_width", 64)
        config["vision_cfg"] |= {"layers": 2, "width": width, "image_size": 56}
        config["text_cfg"] |= {"layers": 2, "width": 64, "heads": 2}
    return config


def _clip(folder: Path, small: bool) -> dict[str, str]:
    config = _config("ViT-L-14-quickgelu", small)
    (folder / "clip").mkdir(exist_ok=True)
    save_file(_state(config), folder / "clip" / "open_clip_model.safetensors")
    described = {"model_cfg": config, "preprocess_cfg": vars(PreprocessCfg())}
    (folder / "clip" / "open_clip_config.json").write_text(json.dumps(described))
    return {"family": "open_clip", "folder": "clip"}


def _hpsv2(folder: Path, small: bool) -> dict[str, str]:
    config = _config("ViT-H-14", small)
    (folder / "hpsv2").mkdir(exist_ok=True)
    torch.save({"state_dict": _state(config, torch.float16)}, folder / "hpsv2" / CHECKPOINT)
    (folder / "hpsv2" / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    architecture = {"folder": "hpsv2"} if small else {"model": "ViT-H-14"}
    return {"family": "hpsv2", "checkpoint": f"hpsv2/{CHECKPOINT}"} | architecture


def _pickscore(folder: Path, small: bool) -> dict[str, str]:
    """With the constant places of positions, which checkpoints of that age hold."""
    config = transformers_config(_config("ViT-H-14", small))
    (folder / "pickscore").mkdir(exist_ok=True)
    with torch.device("meta"):
        model = CLIPModel(config)
    state = {key: _drawn(key, value.shape) for key, value in model.state_dict().items()}
    for half in ("text_model", "vision_model"):
        places = len(state[f"{half}.embeddings.position_embedding.weight"])
        state[f"{half}.embeddings.position_ids"] = torch.arange(places).reshape(1, -1)
    save_file(state, folder / "pickscore" / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(folder / "pickscore")
    side_px = _config("ViT-H-14", small)["vision_cfg"]["image_size"]
    sizes = {"size": {"shortest_edge": side_px}, "crop_size": {"height": side_px, "width": side_px}}
    (folder / "pickscore" / "preprocessor_config.json").write_text(json.dumps(PROCESSOR | sizes))
    copy_tokenizer(folder / "pickscore")
    return {"family": "transformers_clip", "model": "./pickscore"}


TOWERS = {"clip": _clip, "pickscore": _pickscore, "hpsv2": _hpsv2}


def _state(config: dict[str, Any], dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Every key of open_clip's CLIP of that configuration."""
    with torch.device("meta"):
        model = open_clip.CLIP(**config)
    return {key: _drawn(key, value.shape).to(dtype) for key, value in model.state_dict().items()}


def _head(name: str, layers: dict[int, tuple[int, int]]) -> dict[str, torch.Tensor]:
    prefix = "layers." if name == "aesthetic" else "linear_"
    shapes: dict[str, tuple[int, ...]] = {f"{prefix}{number}.weight": shape for number, shape in layers.items()}
    shapes |= {f"{prefix}{number}.bias": shape[:1] for number, shape in layers.items()}
    state = {key: _drawn(key, torch.Size(shape)) for key, shape in shapes.items()}
    constant = {"norm.mean": torch.zeros(768), "norm.variance": torch.ones(768) / 768}
    return state | (constant if name == "nsfw" else {})


def _drawn(key: str, shape: torch.Size) -> torch.Tensor:
    """Normal numbers, one million of them again and again; a layer keeps the size of what it reads."""
    if key == "logit_scale":
        return torch.tensor(4.6052)
    count = max(1, shape.numel())
    values = POOL.repeat(-(-count // len(POOL)))[:count].reshape(shape)
    if len(shape) < 2:
        return 0.1 * values + (1.0 if key.endswith("weight") else 0.0)
    fan_in = 2_500 if "embed" in key and "patch" not in key else shape[1:].numel()
    return values * fan_in**-0.5


def _load(path: Path, name: str) -> None:
    from curate.models.model_set import load_model_set
    from curate.models.scoring import load_scoring

    models = load_model_set(str(path))
    before, start = _peak_gib(), time.perf_counter()
    load_scoring(models, models.choose([name]), "cpu", "fp32")
    seconds = time.perf_counter() - start
    print(
        json.dumps(
            {"scorer": name, "seconds": round(seconds, 1), "peak_gib": [round(before, 2), round(_peak_gib(), 2)]}
        )
    )


def _peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    """Write; with --load print one JSON line for each, the peak before and after it (load one, to see its own)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default=",".join(SCORERS), help="scorers, by comma")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--load", action="store_true", help="load what is there, or was just written")
    options = parser.parse_args()
    path = options.folder / "models.toml"
    if not (options.load and path.is_file()):
        shutil.rmtree(options.folder, ignore_errors=True)
        path = write_stand_ins(options.folder, options.only.split(","), options.small)
    for name in options.only.split(",") if options.load else ():
        _load(path, name)


if __name__ == "__main__":
    main()
