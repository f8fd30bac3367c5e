"""The recipe of a run: frozen dataclasses, filled from a preset, then a TOML file, then flags."""

import dataclasses
import difflib
import tomllib
import types
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import tomli_w

from train.errors import SettingsError

Table = dict[str, Any]


@dataclass(frozen=True)
class Data:
    """What is read, and what is drawn about it."""

    resolution_px: int  # the short side is brought to it, the middle square is kept
    flips: bool  # mirror both images of a pair, or neither, with probability 1/2
    empty_prompt_probability: float
    verify_shards: bool
    order: Literal["shuffled", "ranked", "reversed", "weighted"] = "shuffled"  # see `draws.PairOrder`
    buckets: bool = False  # cut each pair to the nearest of a few shapes, not to a square; see buckets.py
    validation_pairs: int | None = None  # held out, prompt by prompt, and never trained on


@dataclass(frozen=True)
class Objective:
    """What is minimised: a function of loss.py. A key that the named objective has no use for is refused.

    beta: KL strength; see `loss.reward_margin` for its convention. `weight_by` and `offset_by` name a value
    that the shards give each pair: `quality`, or `<scorer>_margin`.
    """

    name: Literal["dpo", "cdpo", "ipo", "slic-hf", "orpo", "sft"]
    beta: float
    label_smoothing: float = 0.1  # cdpo: how often a label is wrong
    hinge: float = 1.0  # slic-hf: the margin beyond which a pair costs nothing
    sft_weight: float = 0.0  # slic-hf: of the preferred image's error
    odds_weight: float = 0.1  # orpo: of the log-odds ratio
    weight_by: str | None = None  # any objective: the loss times value / mean value
    offset_by: str | None = None  # dpo: the margin asked for is offset_scale * value
    offset_scale: float = 1.0


OWN_KEYS = {  # of Objective: what only some objectives read
    "label_smoothing": ("cdpo",),
    "hinge": ("slic-hf",),
    "sft_weight": ("slic-hf",),
    "odds_weight": ("orpo",),
    "offset_by": ("dpo",),
    "offset_scale": ("dpo",),
}


@dataclass(frozen=True)
class Lora:
    """Adapters of rank `rank`, scaled by alpha / rank, on every layer of the denoiser whose name ends in a target."""

    rank: int
    alpha: int | None = None  # absent: equal to the rank
    targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")
    dora: bool = False  # weight-decomposed: magnitudes are trained beside directions


@dataclass(frozen=True)
class Optimizer:
    """Linear warm-up to `learning_rate`, then constant; gradients clipped to `max_grad_norm`.

    adamw8bit keeps AdamW's state in 8 bits (extra `bitsandbytes`); adafactor keeps next to none, and reads
    neither betas nor epsilon.
    """

    learning_rate: float
    warmup_steps: int
    betas: tuple[float, float]
    weight_decay: float
    epsilon: float
    max_grad_norm: float
    name: Literal["adamw", "adamw8bit", "adafactor"] = "adamw"
    fused: bool | None = None  # adamw in one kernel; absent: on a GPU only
    skip_grad_norm_over: float | None = None  # a step whose gradient is larger is not taken
    ema_decay: float | None = None  # the model saved is a moving average of the weights with this decay


@dataclass(frozen=True)
class Run:
    """How long, how wide and how exact."""

    steps: int
    batch_pairs: int
    micro_batch_pairs: int
    mixed_precision: Literal["no", "fp16", "bf16"]
    gradient_checkpointing: bool
    checkpoint_every_steps: int
    keep_checkpoints: int
    seed: int
    channels_last: bool = False
    compile: bool = False
    fsdp: bool = False  # spread weights, gradients and moments over the processes; see fsdp.py
    validate_every_steps: int | None = None  # the implicit accuracy on data.validation_pairs
    sample_every_steps: int | None = None  # pictures of base and policy from fixed seeds, side by side
    sample_prompts: int = 4
    wandb_project: str | None = None  # also log to Weights & Biases (extra `wandb`)


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a run computes, but for the shards and the library versions."""

    model: str
    data: Data
    objective: Objective
    optimizer: Optimizer
    run: Run
    lora: Lora | None = None  # absent: full fine-tune

    def as_table(self) -> Table:
        """Plain values, as JSON and TOML take them."""
        return dataclasses.asdict(self)


def preset_names() -> list[str]:
    """The presets that ship with the package."""
    files = resources.files("train") / "presets"
    return sorted(entry.name.removesuffix(".toml") for entry in files.iterdir() if entry.name.endswith(".toml"))


def load_recipe(preset: str, config: Path | None = None, flags: Table | None = None) -> Recipe:
    """The recipe of `preset`, changed by the file `config`, changed by `flags` (nested like the TOML).

    Raises: SettingsError naming the file, the key and the nearest known one.
    """
    table = _preset_table(preset)
    for origin, layer in ((str(config), _file_table(config)), ("the command line", flags or {})):
        _check_keys(layer, Recipe, origin)
        table = _merge(table, layer)
    recipe: Recipe = _build(Recipe, table, "")
    _check_values(recipe)
    return recipe


def _preset_table(name: str) -> Table:
    if name not in preset_names():
        raise SettingsError(f"There is no preset `{name}`; the presets are {', '.join(preset_names())}.")
    text = (resources.files("train") / "presets" / f"{name}.toml").read_text("utf-8")
    return tomllib.loads(text)


def _file_table(path: Path | None) -> Table:
    if path is None:
        return {}
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path} is not TOML: {error}.") from error


def _check_keys(table: Mapping[str, Any], section: type, origin: str, prefix: str = "") -> None:
    hints = get_type_hints(section)
    for key, value in table.items():
        if key not in hints:
            nearest = difflib.get_close_matches(key, hints, n=1, cutoff=0.0)[0]
            raise SettingsError(f"{origin}: there is no setting `{prefix}{key}`; the nearest is `{prefix}{nearest}`.")
        inner = _section_of(hints[key])
        if inner is not None and isinstance(value, Mapping):
            _check_keys(value, inner, origin, f"{prefix}{key}.")


def _section_of(hint: Any) -> type | None:
    """The dataclass inside a type hint such as `Lora | None`."""
    for option in (hint, *get_args(hint)):
        if isinstance(option, type) and dataclasses.is_dataclass(option):
            return option
    return None


def _merge(below: Table, above: Table) -> Table:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(below.get(key), dict)
        merged[key] = _merge(below[key], value) if both else value
    return merged


def _build(section: type, table: Any, prefix: str) -> Any:
    if not isinstance(table, dict):
        raise SettingsError(f"`{prefix[:-1]}` is a section with keys, not {table!r}.")
    hints = get_type_hints(section)
    missing = [
        field.name
        for field in dataclasses.fields(section)
        if field.name not in table and field.default is dataclasses.MISSING
    ]
    if missing:
        raise SettingsError(f"The setting `{prefix}{missing[0]}` has no value.")
    return section(**{key: _value(hints[key], value, f"{prefix}{key}") for key, value in table.items()})


def _value(hint: Any, value: Any, name: str) -> Any:
    """`value` as the type that the dataclass asks for; an integer passes for a float, nothing else."""
    inner = _section_of(hint)
    if inner is not None:
        return _build(inner, value, f"{name}.")
    if get_origin(hint) is types.UnionType:
        hint = get_args(hint)[0]
    if get_origin(hint) is Literal:
        return _choice(get_args(hint), value, name)
    if get_origin(hint) is tuple:
        return _items(get_args(hint), value, name)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise SettingsError(f"`{name}` is {value!r}; it must be of type {hint.__name__}.")
    return value


def _choice(allowed: tuple[Any, ...], value: Any, name: str) -> Any:
    if value not in allowed:
        raise SettingsError(f"`{name}` is {value!r}; it must be one of {', '.join(allowed)}.")
    return value


def _items(kinds: tuple[Any, ...], value: Any, name: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise SettingsError(f"`{name}` is {value!r}; it must be a list.")
    if kinds[-1] is not Ellipsis and len(value) != len(kinds):
        raise SettingsError(f"`{name}` holds {len(value)} values; it must hold {len(kinds)}.")
    return tuple(_value(kinds[0], item, name) for item in value)


def _check_values(recipe: Recipe) -> None:
    data, run, optimizer = recipe.data, recipe.run, recipe.optimizer
    at_least = {
        "data.resolution_px": (data.resolution_px, 8),
        "objective.beta": (recipe.objective.beta, 0),
        "objective.hinge": (recipe.objective.hinge, 0),
        "objective.sft_weight": (recipe.objective.sft_weight, 0),
        "objective.odds_weight": (recipe.objective.odds_weight, 0),
        "optimizer.learning_rate": (optimizer.learning_rate, 0),
        "optimizer.warmup_steps": (optimizer.warmup_steps, 0),
        "optimizer.weight_decay": (optimizer.weight_decay, 0),
        "optimizer.epsilon": (optimizer.epsilon, 0),
        "optimizer.max_grad_norm": (optimizer.max_grad_norm, 0),
        "run.steps": (run.steps, 1),
        "run.batch_pairs": (run.batch_pairs, 1),
        "run.micro_batch_pairs": (run.micro_batch_pairs, 1),
        "run.checkpoint_every_steps": (run.checkpoint_every_steps, 1),
        "run.keep_checkpoints": (run.keep_checkpoints, 1),
        "run.seed": (run.seed, 0),
        "data.validation_pairs": (data.validation_pairs, 1),
        "optimizer.skip_grad_norm_over": (optimizer.skip_grad_norm_over, 0),
        "run.validate_every_steps": (run.validate_every_steps, 1),
        "run.sample_every_steps": (run.sample_every_steps, 1),
        "run.sample_prompts": (run.sample_prompts, 1),
        "lora.rank": (recipe.lora.rank if recipe.lora else 1, 1),
        "lora.alpha": (recipe.lora.alpha if recipe.lora else 1, 1),
    }
    for name, (value, least) in at_least.items():
        if value is not None and not value >= least:
            raise SettingsError(f"`{name}` is {value:g}; it must be at least {least}.")
    within = {
        "data.empty_prompt_probability": (data.empty_prompt_probability, 1),
        "objective.label_smoothing": (recipe.objective.label_smoothing, 0.5),
        "optimizer.ema_decay": (optimizer.ema_decay or 0, 1),
    }
    for name, (value, most) in within.items():
        if not 0 <= value <= most:
            raise SettingsError(f"`{name}` must lie between 0 and {most:g}; it is {value:g}.")
    if not all(0 <= beta < 1 for beta in optimizer.betas):
        raise SettingsError(f"`optimizer.betas` must lie between 0 and 1, and below 1; they are {optimizer.betas}.")
    if run.validate_every_steps and not data.validation_pairs:
        raise SettingsError("`run.validate_every_steps` needs pairs to validate on; set `data.validation_pairs`.")
    _check_objective(recipe.objective)


def _check_objective(objective: Objective) -> None:
    """A key that the objective does not read would change nothing, and whoever set it would not know."""
    for field in dataclasses.fields(objective):
        readers = OWN_KEYS.get(field.name)
        if readers and objective.name not in readers and getattr(objective, field.name) != field.default:
            raise SettingsError(f"`objective.{field.name}` is read by {readers[0]} only, not by {objective.name}.")


def as_toml(recipe: Table) -> str:
    """A recipe's table as TOML that `--config` takes; what is absent is left out."""
    return tomli_w.dumps(_without_none(recipe))


def _without_none(table: Table) -> Table:
    plain = {key: _without_none(value) if isinstance(value, dict) else value for key, value in table.items()}
    return {key: value for key, value in plain.items() if value is not None}
