"""What training leaves, as other programs open it."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from peft.utils.save_and_load import get_peft_model_state_dict
from safetensors.torch import load_file

from tests.train.conftest import Outcome, Train
from train.config import Lora
from train.model.lora import ADAPTER, add_lora
from train.model.saving import KOHYA_WEIGHTS, LORA_WEIGHTS, kohya_weights, read_trained

RunTiny = Callable[..., Outcome]
ALL_LAYERS = ("to_q", "to_out.0", "proj", "net.2", "proj_in", "conv1", "conv_shortcut", "time_emb_proj", "conv")
# The blocks of the published U-Nets, at a fraction of their width.
BLOCKS: dict[str, dict[str, Any]] = {
    "SD1.5": {
        "block_out_channels": (32, 32, 64, 64),
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    },
    "SDXL": {
        "block_out_channels": (32, 64, 64),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "use_linear_projection": True,
    },
}


def picture(pipeline: Any) -> torch.Tensor:
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    return torch.from_numpy(pipeline("red box", num_inference_steps=2, generator=generator, output_type="np").images)


def a1111_name(layer: str) -> str | None:
    """The module that AUTOMATIC1111/stable-diffusion-webui, extensions-builtin/Lora/networks.py at 873edba
    (`convert_diffusers_name_to_compvis`), changes for a key's first part; its U-Nets have two layers a block."""
    resnet = {"conv1": "in_layers_2", "conv2": "out_layers_3", "time_emb_proj": "emb_layers_1"}
    resnet["conv_shortcut"] = "skip_connection"
    if found := re.fullmatch(r"lora_unet_(down|up)_blocks_(\d+)_(attentions|resnets)_(\d+)_(.+)", layer):
        way, block, kind, number, rest = found.groups()
        first = int(block) * 3 + int(number) + (way == "down")
        side = "input" if way == "down" else "output"
        attention = kind == "attentions"
        return f"{side}_blocks_{first}_{int(attention)}_{rest if attention else resnet.get(rest, rest)}"
    if found := re.fullmatch(r"lora_unet_mid_block_(attentions|resnets)_(\d+)_(.+)", layer):
        kind, number, rest = found.groups()
        attention = kind == "attentions"
        return f"middle_block_{1 if attention else int(number) * 2}_{rest if attention else resnet.get(rest, rest)}"
    if found := re.fullmatch(r"lora_unet_down_blocks_(\d+)_downsamplers_0_conv", layer):
        return f"input_blocks_{3 + int(found[1]) * 3}_0_op"
    if found := re.fullmatch(r"lora_unet_up_blocks_(\d+)_upsamplers_0_conv", layer):
        return f"output_blocks_{2 + int(found[1]) * 3}_{2 if int(found[1]) else 1}_conv"
    return None


@pytest.mark.parametrize("blocks", BLOCKS.values(), ids=BLOCKS)
def test_each_key_of_a_kohya_lora_is_one_that_comfyui_and_a1111_look_for(blocks: dict[str, Any]) -> None:
    unet = UNet2DConditionModel(sample_size=8, cross_attention_dim=16, attention_head_dim=8, **blocks)
    layers = {name.removesuffix(".weight") for name in unet.state_dict() if name.endswith(".weight")}
    add_lora(unet, Lora(rank=2, alpha=6, targets=ALL_LAYERS), seed=0)
    trained = get_peft_model_state_dict(unet, adapter_name=ADAPTER)
    kohya = kohya_weights(trained, 6)
    # comfyanonymous/ComfyUI, comfy/lora.py at 00728eb: `model_lora_keys_unet` and `load_lora` look for
    # lora_unet_<diffusers' layer>.lora_up.weight, .lora_down.weight and .alpha, and scale by alpha / rank.
    looked_for = {f"lora_unet_{layer.replace('.', '_')}" for layer in layers}
    changed = {key.split(".")[0] for key in kohya}
    assert changed <= looked_for
    assert len(changed) == len(trained) / 2 > 60
    assert kohya.keys() == {
        f"{key}.{part}" for key in changed for part in ("lora_up.weight", "lora_down.weight", "alpha")
    }
    assert {kohya[f"{key}.alpha"].item() for key in changed} == {6.0}
    names = [a1111_name(key) for key in changed]
    assert None not in names
    assert len(set(names)) == len(changed)
    assert "input_blocks_4_1_transformer_blocks_0_attn1_to_q" in names  # as both published checkpoints name it


def test_a_kohya_lora_draws_as_diffusers_own_does(run_tiny: RunTiny, tmp_path: Path, sd: Path) -> None:
    config = tmp_path / "lora.toml"
    config.write_text("[data]\nresolution_px = 32\n[lora]\nrank = 2\nalpha = 6\n[optimizer]\nlearning_rate = 1e-2\n")
    result = run_tiny(tmp_path / "out", "--config", config, "--steps", 3, "--batch-pairs", 2)
    model, drawn = Path(result.json()["model"]), []
    for name in (LORA_WEIGHTS, KOHYA_WEIGHTS):
        pipeline = DiffusionPipeline.from_pretrained(sd)
        pipeline.load_lora_weights(model, weight_name=name)
        drawn.append(picture(pipeline))
    assert torch.equal(*drawn)
    assert not torch.equal(drawn[0], picture(DiffusionPipeline.from_pretrained(sd)))
    held = load_file(model / KOHYA_WEIGHTS)
    assert {value.item() for name, value in held.items() if name.endswith(".alpha")} == {6.0}


def test_dora_has_no_kohya_form(run_tiny: RunTiny, tmp_path: Path, recipe_file: Path) -> None:
    config = tmp_path / "dora.toml"
    config.write_text(recipe_file.read_text() + "[lora]\nrank = 2\ndora = true\n")
    model = Path(run_tiny(tmp_path / "out", "--config", config, "--steps", 1).json()["model"])
    assert (model / LORA_WEIGHTS).exists()
    assert not (model / KOHYA_WEIGHTS).exists()


def unfetched(sd: Path, folder: Path) -> Path:
    """A pipeline whose index names a safety checker that was never fetched, as in the cache of a hub id."""
    shutil.copytree(sd, folder)
    index = json.loads((folder / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    index["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
    index["scheduler"] = ["diffusers", "DDIMScheduler"]
    (folder / "model_index.json").write_text(json.dumps(index | {"requires_safety_checker": True}))
    return folder


def test_what_training_does_not_open_is_not_needed_to_save(run_tiny: RunTiny, tmp_path: Path, sd: Path) -> None:
    result = run_tiny(tmp_path / "out", "--steps", 1, model=unfetched(sd, tmp_path / "model"))
    assert result.code == 0, result.err
    trained = DiffusionPipeline.from_pretrained(result.json()["model"])
    assert trained.safety_checker is None
    assert trained.config["requires_safety_checker"] is False
    assert type(trained.scheduler).__name__ == "DDIMScheduler"
    assert trained.scheduler.config == DiffusionPipeline.from_pretrained(sd).scheduler.config


def test_a_model_that_cannot_be_saved_is_saved_when_resumed(run_tiny: RunTiny, tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / ".model.partial").touch()  # where the folder is to be made
    failed = run_tiny(output, "--steps", 2)
    assert failed.code == 1
    assert failed.err.splitlines()[-1] == (
        f"train: {output}/model could not be written (File exists); make room or choose another folder. The training"
        f" is done and kept in {output}/checkpoints; run again with --resume, and the model is saved from there."
    )
    (output / ".model.partial").unlink()
    assert run_tiny(output, "--steps", 2, "--resume").code == 0
    assert (output / "model" / "model_index.json").exists()


def test_a_base_given_by_a_relative_path_is_found_from_another_folder(
    train: Train, tmp_path: Path, sd: Path, shards: Path, recipe_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(sd, tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    fixed = ("--preset", "demo", "--config", recipe_file, "--shards", shards, "--output", tmp_path / "out")
    assert train("run", *fixed, "--steps", 2, "--model", "base").code == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    trained = read_trained(tmp_path / "out" / "model")
    assert trained is not None
    assert trained.base == str(tmp_path / "base")
    assert train("run", *fixed, "--steps", 4, "--resume", "--model", "../base").code == 0


def test_many_gpus_are_not_asked_for_their_generators(monkeypatch: pytest.MonkeyPatch, sd: Path) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)  # torch would warn, and ask each for its state
    unet = UNet2DConditionModel.from_pretrained(sd, subfolder="unet")
    before = torch.get_rng_state()
    add_lora(unet, Lora(rank=2), seed=0)
    assert torch.equal(torch.get_rng_state(), before)
