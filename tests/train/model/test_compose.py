import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from huggingface_hub import close_session, constants, hf_api

from tests.curate.web import COMMIT, web_server
from tests.train import tiny
from tests.train.conftest import Outcome
from train.config import load_recipe
from train.errors import ModelError, SettingsError
from train.model.compose import compose, composed
from train.model.families import encode_prompts, load
from train.model.saving import open_pipeline
from train.model.single_file import write_single_file


def made(output: Path, model: Path, **parts: str) -> Path:
    recipe, stated = composed(load_recipe("demo", None, {"model": str(model), **parts}), output)
    assert (recipe.model, recipe.variant, recipe.vae) == (str(output / "base"), None, None)
    assert stated["composed_of"]["model"] == str(model)
    compose(stated["composed_of"], output / "base")
    return output / "base"


def refused(output: Path, model: Path, **parts: str) -> str:
    with pytest.raises((ModelError, SettingsError)) as caught:
        made(output, model, **parts)
    assert not (output / "base").exists()
    return str(caught.value)


def test_a_plain_model_is_opened_where_it_lies(sd: Path, tmp_path: Path) -> None:
    recipe = load_recipe("demo", None, {"model": str(sd)})
    assert composed(recipe, tmp_path) == (recipe, {})


def test_a_variant_is_the_model_that_its_files_hold(sd: Path, tmp_path: Path) -> None:
    pipeline = DiffusionPipeline.from_pretrained(sd).to(torch.float16)
    pipeline.save_pretrained(tmp_path / "half", variant="fp16")
    base = made(tmp_path, tmp_path / "half", variant="fp16")
    for name, value in load(str(base)).denoiser.state_dict().items():
        assert torch.equal(value, pipeline.unet.state_dict()[name].float())
    assert refused(tmp_path / "none", sd, variant="ema").startswith(f"{sd}, variant ema cannot be opened: ")


def test_another_vae_takes_the_place_of_the_pipeline_s_own(sd: Path, sdxl: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    other = tiny.vae()
    other.save_pretrained(tmp_path / "vae")
    base = load(str(made(tmp_path, sdxl, vae=str(tmp_path / "vae"))))
    assert all(torch.equal(value, base.vae.state_dict()[name]) for name, value in other.state_dict().items())
    assert base.zero_empty_prompt
    assert refused(tmp_path / "none", sd, vae=str(tmp_path)).startswith(f"The VAE {tmp_path} cannot be opened: ")
    tiny.vae(latent_channels=16).save_pretrained(tmp_path / "wide")
    assert refused(tmp_path / "none", sd, vae=str(tmp_path / "wide")) == (
        f"The VAE {tmp_path / 'wide'} has 16 latent channels; the model {sd} takes 4."
    )


def test_a_folder_made_of_other_parts_is_made_again(sd: Path, tmp_path: Path) -> None:
    """A run that never came to a checkpoint may be begun again with another VAE."""
    for seed in (5, 6):
        torch.manual_seed(seed)
        other = tiny.vae()
        other.save_pretrained(tmp_path / f"vae{seed}")
        base = load(str(made(tmp_path, sd, vae=str(tmp_path / f"vae{seed}"))))
        assert all(torch.equal(value, base.vae.state_dict()[name]) for name, value in other.state_dict().items())
    written = (tmp_path / "base" / "model_index.json").stat().st_mtime_ns
    made(tmp_path, sd, vae=str(tmp_path / "vae6"))
    assert (tmp_path / "base" / "model_index.json").stat().st_mtime_ns == written


def test_sd3_without_its_third_encoder_takes_another_vae(tmp_path: Path) -> None:
    tiny.vae(shift_factor=0.1).save_pretrained(tmp_path / "vae")
    base = made(tmp_path, tiny.save_sd3(tmp_path / "sd3", t5=False), vae=str(tmp_path / "vae"))
    assert len(load(str(base)).text_encoders) == 2


def test_one_file_is_the_model_that_it_holds(sd: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sd, tmp_path / "sd"))
    base = load(str(made(tmp_path, write_single_file(folder), single_file_config=str(sd))))
    wanted = load(str(sd))
    for one, other in ((base.denoiser, wanted.denoiser), (base.vae, wanted.vae)):
        assert all(torch.equal(value, one.state_dict()[name]) for name, value in other.state_dict().items())
    assert torch.equal(encode_prompts(base, ["red"]).prompt_embeds, encode_prompts(wanted, ["red"]).prompt_embeds)


def test_a_revision_is_all_that_the_hub_is_asked_for(sd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {str(path.relative_to(sd)): path.read_bytes() for path in sd.rglob("*") if path.is_file()}
    names = [{"rfilename": name} for name in files]
    about = json.dumps({"_id": "1", "id": "some/model", "sha": COMMIT, "siblings": names}).encode()
    with web_server() as hub:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(hf_api.api, "endpoint", hub.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        hub.repositories["models/some/model"] = files
        hub.files["/api/models/some/model/revision/half"] = about
        base = made(tmp_path, Path("some/model"), revision="half")
        close_session()
    found, wanted = (load(str(folder)).denoiser.state_dict() for folder in (base, sd))
    assert all(torch.equal(value, found[name]) for name, value in wanted.items())
    asked = {found for request in hub.requests for found in re.findall("/(?:resolve|revision|tree)/([^/]+)", request)}
    assert asked == {"half", COMMIT}


def test_what_cannot_be_put_together_is_one_sentence(sd: Path, tmp_path: Path) -> None:
    assert refused(tmp_path, sd, revision="main") == (
        f"revision is of a hub id; {sd} lies on this machine: leave it out."
    )
    (tmp_path / "broken.safetensors").write_bytes(b"no weights")
    assert refused(tmp_path / "none", tmp_path / "broken.safetensors").startswith(
        f"{tmp_path / 'broken.safetensors'} is no checkpoint that can be read: "
    )


def test_a_run_on_parts_says_of_what_and_a_lora_draws_with_them(
    run_tiny: Callable[..., Outcome], sd: Path, recipe_file: Path, tmp_path: Path
) -> None:
    torch.manual_seed(5)
    other = tiny.vae()
    other.save_pretrained(tmp_path / "vae")
    config = tmp_path / "recipe.toml"
    config.write_text(f'vae = "{tmp_path / "vae"}"\n{recipe_file.read_text()}')
    options: tuple[Any, ...] = ("--config", config, "--lora-rank", 2, "--steps", 1)
    result = run_tiny(tmp_path / "out", *options)
    assert result.code == 0, result.err
    assert f"Putting {sd} together in {tmp_path / 'out' / 'base'}; " in result.err
    assert json.loads((tmp_path / "out" / "run.json").read_text())["composed_of"]["vae"] == str(tmp_path / "vae")
    drawn_with = open_pipeline(result.json()["model"], torch.float32).vae.state_dict()
    assert all(torch.equal(value, drawn_with[name]) for name, value in other.state_dict().items())
    assert "finished: nothing to do" in run_tiny(tmp_path / "out", *options).err
