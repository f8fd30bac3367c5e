"""Find a model, and open its parts: a pipeline folder, a hub id, a bundled one, all by their family.

A model may also be the folder that training a LoRA left behind (its `training.json` names the base). The denoiser is
what is trained: a U-Net or a transformer.
"""

import hashlib
import inspect
import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from train.errors import ModelError
from train.files import read_json
from train.model.families.family import DiffusionModel, Family, TextEncoder
from train.model.families.sd import StableDiffusion
from train.model.families.sd3 import StableDiffusion3
from train.model.families.sdxl import StableDiffusionXL
from train.model.families.zimage import ZImage

KINDS = (StableDiffusion, StableDiffusionXL, StableDiffusion3, ZImage)
FAMILIES: dict[str, Family] = {kind.name: kind() for kind in KINDS}
FAMILY_OF_PIPELINE = {family.pipeline: family for family in FAMILIES.values()}
BUNDLED = {"demo": "demo/models/sd", "demo-sdxl": "demo/models/sdxl"}
SAMPLED_VALUES = 256  # of each tensor, for a digest
SETTINGS_OF_VALUES = [  # of an encoder's configuration: they decide what its weights compute
    *("act_fn", "norm_num_groups", "hidden_act", "feed_forward_proj", "num_attention_heads", "layer_norm_eps"),
    *("layer_norm_epsilon", "eos_token_id", "relative_attention_max_distance"),
]


def digest(module: torch.nn.Module) -> str:
    """Tells an encoder from others: a hash of SETTINGS_OF_VALUES, and of its weights' names, shapes, some values."""
    config: Any = module.config
    config = config if isinstance(config, dict) else config.to_dict()
    found = hashlib.sha256(json.dumps([config.get(name) for name in SETTINGS_OF_VALUES]).encode())
    for name, value in module.state_dict().items():
        flat = value.detach().flatten()
        some = flat[:: max(1, flat.numel() // SAMPLED_VALUES)].float().cpu()
        found.update(f"{name}{tuple(value.shape)}".encode() + some.numpy().tobytes())
    return found.hexdigest()[:16]


def locate(source: str) -> str:
    """The folder or hub id behind a model's name: a bundled model's name stands for its folder."""
    if source in BUNDLED and not Path(source).is_dir():
        folder = Path(str(resources.files("data_manifests") / BUNDLED[source]))
        if not folder.is_dir():
            raise ModelError(f"The bundled model `{source}` is not installed: {folder} does not exist.")
        return str(folder)
    return source


def pipeline_index(source: str, revision: str | None = None) -> dict[str, Any]:
    """model_index.json of a pipeline folder or hub id, of a revision if one is named, its class checked.

    Raises: ModelError saying what was found instead.
    """
    located = locate(source)
    try:
        path = Path(located, "model_index.json")
        if not Path(located).is_dir():
            path = Path(hf_hub_download(located, "model_index.json", revision=revision))
        path.stat()
    except GatedRepoError as error:
        raise ModelError(
            f"{source} is gated: accept its terms at {constants.ENDPOINT}/{source} with your account, then log in by"
            " `hf auth login`, or set HF_TOKEN."
        ) from error
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        answer = f" (it answers {status}); for a private one log in by `hf auth login`, else" if status else ";"
        raise ModelError(
            f"{source} is neither a folder nor a model that the hub gives{answer} check the name and the network."
        ) from error
    except OSError as error:
        raise ModelError(
            f"{source} is not a diffusers pipeline folder: it has no model_index.json;"
            " give a folder saved with `save_pretrained`, or a hub id."
        ) from error
    try:
        index = read_json(path)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} is damaged ({error}); save the pipeline, or download it, again.") from error
    if index.get("_class_name") not in FAMILY_OF_PIPELINE:
        known = ", ".join(FAMILY_OF_PIPELINE)
        raise ModelError(f"{source} is a {index.get('_class_name')}; train takes {known} only.")
    return index


def left_out(source: str, revision: str | None = None) -> dict[str, Any]:
    """None for each part that a pipeline was saved without, as SD3 may be without T5: diffusers asks to be told."""
    return {name: None for name, kind in pipeline_index(source, revision).items() if kind == [None, None]}


def fetched(source: str) -> bool:
    """Whether a model's denoiser is here already: false for a hub id that is not in the hub's cache."""
    located, name = locate(source), family_of(source).denoiser_name
    return Path(located).is_dir() or isinstance(try_to_load_from_cache(located, f"{name}/config.json"), str)


def family_of(source: str, revision: str | None = None) -> Family:
    """Raises: ModelError when the pipeline is of another class."""
    return FAMILY_OF_PIPELINE[pipeline_index(source, revision)["_class_name"]]


def family_drawn_by(pipeline: Any) -> Family:
    """Of a pipeline that is open."""
    return FAMILY_OF_PIPELINE[type(pipeline).__name__]


@contextmanager
def whole_pipeline(source: str) -> Iterator[None]:
    """Raises: ModelError where a part of the pipeline is missing or cannot be read."""
    try:
        yield
    except OSError as error:
        raise ModelError(f"{source} is not a whole pipeline: {str(error).splitlines()[0]}") from error


def load(source: str, denoiser: Any = None) -> DiffusionModel:
    """All parts in float32, frozen, on the CPU; a `denoiser` that is given stands for the source's own, as it is.

    Raises: ModelError.
    """
    index = pipeline_index(source)
    family, located = FAMILY_OF_PIPELINE[index["_class_name"]], locate(source)
    text = _texts(family, index)
    with whole_pipeline(source):
        model = DiffusionModel(
            family=family,
            denoiser=denoiser
            or _diffusers(family.denoiser).from_pretrained(
                located, subfolder=family.denoiser_name, dtype=torch.float32
            ),
            vae=_diffusers(family.vae).from_pretrained(located, subfolder="vae", dtype=torch.float32),
            text_encoders=[
                getattr(transformers, one.encoder).from_pretrained(
                    located, subfolder=f"text_encoder{suffix}", dtype=torch.float32
                )
                for suffix, one in text.items()
            ],
            tokenizers=[
                getattr(transformers, one.tokenizer).from_pretrained(located, subfolder=f"tokenizer{suffix}")
                for suffix, one in text.items()
            ],
            scheduler=family.scheduler.from_pretrained(located, subfolder="scheduler"),
            zero_empty_prompt=bool(index.get("force_zeros_for_empty_prompt", False)),
        )
    prediction_type = model.scheduler.config.get("prediction_type", "flow")
    if prediction_type not in ("epsilon", "v_prediction", "flow"):
        raise ModelError(f"{source} predicts `{prediction_type}`; train takes `epsilon` and `v_prediction`.")
    for module in (*([] if denoiser else [model.denoiser]), model.vae, *model.text_encoders):
        module.requires_grad_(False).eval()
    return model


def _diffusers(name: str) -> Any:
    return getattr(diffusers, name)


def _texts(family: Family, index: dict[str, Any]) -> dict[str, TextEncoder]:
    """Text encoders by what their folders' names end in; SD3's third may be left out."""
    named = zip(["", "_2", "_3"], family.text, strict=False)
    return {suffix: one for suffix, one in named if suffix != "_3" or (index.get("text_encoder_3") or [None])[0]}


def encoder_weights(source: str) -> int:
    """How many there are in VAE and text encoders; none is read. Raises: ModelError."""
    index, located = pipeline_index(source), locate(source)
    family = FAMILY_OF_PIPELINE[index["_class_name"]]
    with whole_pipeline(source), torch.device("meta"):
        modules = [_outlined(family.vae, located, "vae")]
        for suffix, one in _texts(family, index).items():
            kind: Any = getattr(transformers, one.encoder)
            modules.append(kind(kind.config_class.from_pretrained(located, subfolder=f"text_encoder{suffix}")))
    return sum(weight.numel() for module in modules for weight in module.parameters())


def _outlined(name: str, located: str, part: str) -> Any:
    kind = _diffusers(name)
    return kind.from_config(kind.load_config(located, subfolder=part))


def outline(source: str) -> DiffusionModel:
    """Denoiser, VAE and scheduler without weights, on the meta device; no text encoders. Raises: ModelError."""
    family, located = family_of(source), locate(source)
    with whole_pipeline(source), torch.device("meta"):
        return DiffusionModel(
            family=family,
            denoiser=_outlined(family.denoiser, located, family.denoiser_name),
            vae=_outlined(family.vae, located, "vae"),
            text_encoders=[],
            tokenizers=[],
            scheduler=family.scheduler(),
            zero_empty_prompt=False,
        )


def pipeline_around(source: str, denoiser: Any) -> Any:
    """The source's pipeline with another denoiser, in float32: made of the parts that `load` reads and of no others.

    So what a run opened it can also save, where nothing more can be fetched. Without safety checker and image encoder.
    Raises: ModelError.
    """
    model, index = load(source, denoiser), pipeline_index(source)
    parts: dict[str, Any] = {}
    for suffix, encoder, tokenizer in zip(["", "_2", "_3"], model.text_encoders, model.tokenizers, strict=False):
        parts |= {f"text_encoder{suffix}": encoder, f"tokenizer{suffix}": tokenizer}
    with whole_pipeline(source):
        scheduler = _diffusers(index["scheduler"][1]).from_pretrained(locate(source), subfolder="scheduler")
    parts |= {model.family.denoiser_name: denoiser, "vae": model.vae, "scheduler": scheduler}
    parts |= {"requires_safety_checker": False, "force_zeros_for_empty_prompt": model.zero_empty_prompt}
    pipeline = _diffusers(model.family.pipeline)
    taken = inspect.signature(pipeline).parameters
    return pipeline(
        **{name: parts.get(name) for name, one in taken.items() if name in parts or one.default is one.empty}
    )
