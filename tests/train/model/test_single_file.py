"""A single file holds the pipeline's weights under the original names: diffusers' own reader gives them back."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
from safetensors.torch import load_file

from tests.train import tiny
from tests.train.conftest import Outcome
from tests.train.model.test_saving import BLOCKS
from train.model.single_file import _new_name, unet_rules, write_single_file
from train.sample.picture_files import fingerprint

RunTiny = Callable[..., Outcome]


@pytest.mark.parametrize(
    ("save", "pipeline"), [(tiny.save_sd, StableDiffusionPipeline), (tiny.save_sdxl, StableDiffusionXLPipeline)]
)
def test_diffusers_reads_back_the_same_weights(tmp_path: Path, save: Any, pipeline: Any) -> None:
    folder = save(tmp_path / "model")
    path = write_single_file(folder)
    wanted = DiffusionPipeline.from_pretrained(folder)
    found = pipeline.from_single_file(path, config=str(folder), local_files_only=True)
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        if getattr(wanted, part, None) is None:
            continue
        one, other = getattr(wanted, part).state_dict(), getattr(found, part).state_dict()
        assert one.keys() == other.keys()
        for name, value in one.items():
            assert torch.equal(value, other[name]), name


# Of the published files' names, those by which programs tell their kind, and one of each rule.
PUBLISHED = {
    "SD1.5": ("output_blocks.11.0.skip_connection.weight", "input_blocks.11.0.in_layers.2.weight",
              "output_blocks.2.1.conv.weight", "output_blocks.5.2.conv.bias", "input_blocks.9.0.op.weight"),
    "SDXL": ("output_blocks.8.0.skip_connection.weight", "middle_block.1.transformer_blocks.9.attn2.to_k.weight",
             "output_blocks.2.2.conv.weight", "output_blocks.5.2.conv.bias", "input_blocks.6.0.op.weight"),
}  # fmt: skip
BOTH = ("time_embed.0.weight", "time_embed.2.bias", "input_blocks.0.0.weight", "out.0.weight", "out.2.bias",
        "middle_block.0.emb_layers.1.weight", "middle_block.2.out_layers.3.bias",
        "output_blocks.0.0.in_layers.0.weight",
        "input_blocks.4.1.transformer_blocks.0.ff.net.0.proj.weight")  # fmt: skip


@pytest.mark.parametrize("kind", BLOCKS)
def test_the_published_blocks_have_their_published_names(kind: str) -> None:
    unet = UNet2DConditionModel(sample_size=8, cross_attention_dim=16, attention_head_dim=8, **BLOCKS[kind])
    rules = unet_rules(dict(unet.config))
    names = [_new_name(name, rules) for name in unet.state_dict()]
    assert len(set(names)) == len(names)
    assert {name.split(".")[0] for name in names} == {
        "time_embed",
        "input_blocks",
        "middle_block",
        "output_blocks",
        "out",
    }
    assert {*PUBLISHED[kind], *BOTH} <= set(names)


def test_a_run_leaves_it_where_it_is_asked_for(run_tiny: RunTiny, tmp_path: Path, sd3: Path) -> None:
    plain = run_tiny(tmp_path / "out", "--steps", 1)
    model = Path(plain.json()["model"])
    assert not (model / "single_file.safetensors").exists()
    before = fingerprint(str(model))
    later = run_tiny(tmp_path / "out", "--steps", 1, "--single-file")  # of a run that is finished
    assert later.json()["single_file"] == str(model / "single_file.safetensors")
    assert fingerprint(str(model)) == before  # pictures drawn before stay this model's
    held = load_file(model / "single_file.safetensors")
    trained = load_file(model / "unet" / "diffusion_pytorch_model.safetensors")
    assert torch.equal(held["model.diffusion_model.out.2.bias"], trained["conv_out.bias"])
    lora = run_tiny(tmp_path / "lora", "--lora-rank", 2, "--single-file")
    assert (lora.code, lora.err.splitlines()[-1]) == (
        2,
        "train: --single-file is for a full fine-tune; a LoRA has its kohya_lora.safetensors.",
    )
    other = run_tiny(tmp_path / "sd3", "--single-file", model=sd3)
    assert other.err.splitlines()[-1] == f"train: --single-file writes SD1.5- and SDXL-class models; {sd3} is neither."
