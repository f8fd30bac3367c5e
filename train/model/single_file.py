"""A trained pipeline as one file in the layout of the original checkpoints, which ComfyUI and A1111 open.

Names are those of CompVis/stable-diffusion (SD1.5) and Stability-AI/generative-models (SDXL). A name of diffusers is
rewritten by the first rule that fits; what no rule fits stays as it is.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from train.errors import SettingsError
from train.files import whole_file
from train.model.families import family_of, locate, whole_pipeline

SINGLE_FILE = "single_file.safetensors"
Tensors = dict[str, Tensor]
Rules = dict[str, str | Callable[[re.Match[str]], str]]

RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3"}
RESNET |= {"time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection"}
VAE_PARTS = {"conv_shortcut": "nin_shortcut", "group_norm": "norm", "to_out.0": "proj_out"}
VAE_PARTS |= {"to_q": "q", "to_k": "k", "to_v": "v"}
OPEN_CLIP = {
    r"embeddings\.token_embedding\.": "token_embedding.",
    r"embeddings\.position_embedding\.weight": "positional_embedding",
    r"final_layer_norm\.": "ln_final.",
    r"text_projection\.weight": "text_projection",
    r"encoder\.layers\.(\d+)\.layer_norm(\d)\.": r"transformer.resblocks.\1.ln_\2.",
    r"encoder\.layers\.(\d+)\.mlp\.fc1\.": r"transformer.resblocks.\1.mlp.c_fc.",
    r"encoder\.layers\.(\d+)\.mlp\.fc2\.": r"transformer.resblocks.\1.mlp.c_proj.",
    r"encoder\.layers\.(\d+)\.self_attn\.": r"transformer.resblocks.\1.attn.",
}


def check_single_file(source: str | None, *, lora: bool) -> None:
    """source: None while its kind is not known. Raises: SettingsError for what has no such form; ModelError."""
    if lora:
        raise SettingsError("--single-file is for a full fine-tune; a LoRA has its kohya_lora.safetensors.")
    if source is None:
        return
    family = family_of(source).name
    known = family in ("sd", "sdxl")
    if family == "sd":
        with whole_pipeline(source):  # SD2 has another text encoder, of which diffusers keeps no last layer
            known = not UNet2DConditionModel.load_config(locate(source), subfolder="unet").get("use_linear_projection")
    if not known:
        raise SettingsError(f"--single-file writes SD1.5- and SDXL-class models; {source} is neither.")


def write_single_file(folder: Path) -> Path:
    """`single_file.safetensors` in the folder of a pipeline, made of its weights as they are.

    Raises: SettingsError for a pipeline that has no such form; StorageError.
    """
    check_single_file(str(folder), lora=False)
    config = {part: json.loads((folder / part / "config.json").read_text("utf-8")) for part in ("unet", "vae")}
    text, xl = _weights(folder / "text_encoder"), (folder / "text_encoder_2").is_dir()
    unet = _renamed(_weights(folder / "unet"), unet_rules(config["unet"]))
    tensors = _under("model.diffusion_model.", unet)
    tensors |= _under("first_stage_model.", _vae(_weights(folder / "vae"), len(config["vae"]["block_out_channels"])))
    tensors |= _under(f"{'conditioner.embedders.0' if xl else 'cond_stage_model'}.transformer.text_model.", text)
    if xl:
        tensors |= _under("conditioner.embedders.1.model.", _open_clip(_weights(folder / "text_encoder_2")))
    with whole_file(folder / SINGLE_FILE) as temporary:
        save_file({name: value.contiguous() for name, value in tensors.items()}, temporary)
    return folder / SINGLE_FILE


def unet_rules(config: dict[str, Any]) -> Rules:
    """Blocks are numbered through: for each of diffusers', `layers_per_block` and one that changes the size."""
    block = config["layers_per_block"] + 1

    def inner(kind: str, rest: str) -> str:
        if kind == "attentions":
            return f"1.{rest}"
        name = rest.rpartition(".")[0]
        return f"0.{RESNET[name]}{rest[len(name) :]}"

    def up_sampler(found: re.Match[str]) -> str:
        index = int(found[1])
        attends = "Attn" in config["up_block_types"][index]
        return f"output_blocks.{index * block + block - 1}.{1 + attends}."

    down = r"down_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.+)"
    up = r"up_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.+)"
    return {
        r"time_embedding\.linear_([12])": lambda found: f"time_embed.{2 * int(found[1]) - 2}",
        r"add_embedding\.linear_([12])": lambda found: f"label_emb.0.{2 * int(found[1]) - 2}",
        r"conv_in\.": "input_blocks.0.0.",
        r"conv_norm_out\.": "out.0.",
        r"conv_out\.": "out.2.",
        down: lambda found: f"input_blocks.{int(found[1]) * block + int(found[3]) + 1}.{inner(found[2], found[4])}",
        r"down_blocks\.(\d+)\.downsamplers\.0\.conv\.": lambda found: (
            f"input_blocks.{(int(found[1]) + 1) * block}.0.op."
        ),
        r"mid_block\.attentions\.0\.": "middle_block.1.",
        r"mid_block\.resnets\.(\d+)\.(.+)": lambda found: f"middle_block.{2 * int(found[1])}.{inner('', found[2])[2:]}",
        up: lambda found: f"output_blocks.{int(found[1]) * block + int(found[3])}.{inner(found[2], found[4])}",
        r"up_blocks\.(\d+)\.upsamplers\.0\.": up_sampler,
    }


def _vae(weights: Tensors, blocks: int) -> Tensors:
    rules: Rules = {
        r"(encoder|decoder)\.conv_norm_out\.": r"\1.norm_out.",
        r"(encoder|decoder)\.mid_block\.attentions\.0\.": r"\1.mid.attn_1.",
        r"(encoder|decoder)\.mid_block\.resnets\.(\d+)\.": lambda found: f"{found[1]}.mid.block_{int(found[2]) + 1}.",
        r"encoder\.down_blocks\.(\d+)\.resnets\.": r"encoder.down.\1.block.",
        r"encoder\.down_blocks\.(\d+)\.downsamplers\.0\.": r"encoder.down.\1.downsample.",
        r"decoder\.up_blocks\.(\d+)\.resnets\.": lambda found: f"decoder.up.{blocks - 1 - int(found[1])}.block.",
        r"decoder\.up_blocks\.(\d+)\.upsamplers\.0\.": lambda found: (
            f"decoder.up.{blocks - 1 - int(found[1])}.upsample."
        ),
    }
    found = {}
    for name, value in _renamed(weights, rules).items():
        for ours, theirs in VAE_PARTS.items():
            name = name.replace(f".{ours}.", f".{theirs}.")
        attends = ".attn_1." in name and value.ndim == 2  # a convolution of one pixel there
        found[name] = value[:, :, None, None] if attends else value
    return found


def _open_clip(weights: Tensors) -> Tensors:
    """The second text encoder of SDXL: query, key and value are one matrix there, the projection lies on its side."""
    found = _renamed(weights, OPEN_CLIP)
    for name in [name for name in found if ".attn.q_proj." in name]:
        kind = name.rpartition(".")[2]
        sides = [found.pop(name.replace(".q_proj.", f".{side}_proj.")) for side in "qkv"]
        found[name.replace(f"q_proj.{kind}", f"in_proj_{kind}")] = torch.cat(sides)
    found["text_projection"] = found["text_projection"].T
    return found


def _renamed(weights: Tensors, rules: Any) -> Tensors:
    return {_new_name(name, rules): value for name, value in weights.items()}


def _new_name(name: str, rules: Rules) -> str:
    for pattern, new in rules.items():
        if re.match(pattern, name):
            return re.sub(f"^{pattern}", new, name)
    return name


def _under(prefix: str, weights: Tensors) -> Tensors:
    return {f"{prefix}{name}": value for name, value in weights.items()}


def _weights(folder: Path) -> Tensors:
    """All tensors of a part, however many files hold them; older transformers put `text_model.` before a name."""
    return {name.removeprefix("text_model."): value for name, value in _files(folder)}


def _files(folder: Path) -> Iterator[tuple[str, Tensor]]:
    for path in sorted(folder.glob("*.safetensors")):
        yield from load_file(path).items()
