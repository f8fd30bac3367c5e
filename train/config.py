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

from train.errors import SettingsError

Table = dict[str, Any]


@dataclass(frozen=True)
class Data:
    """What is read, and what is drawn about it."""

    resolution_px: int  # the short side is brought to it, the middle square is kept
    flips: bool  # mirror both images of a pair, or neither, with probability 1/2
    empty_prompt_probability: float
    verify_shards: bool


@dataclass(frozen=True)
class Objective:
    """What is minimised. beta: KL strength; see `loss.diffusion_dpo_loss` for its convention."""

    name: Literal["dpo"]
    beta: float


@dataclass(frozen=True)
class Lora:
    """Adapters of rank `rank`, scaled by alpha / rank, on every U-Net layer whose name ends in a target."""

    rank: int
    alpha: int | None = None  # absent: equal to the rank
    targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")


@dataclass(frozen=True)
class Optimizer:
    """AdamW: linear warm-up to `learning_rate`, then constant; gradients clipped to `max_grad_norm`."""

    learning_rate: float
    warmup_steps: int
    betas: tuple[float, float]
    weight_decay: float
    epsilon: float
    max_grad_norm: float


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
        "optimizer.learning_rate": (optimizer.learning_rate, 0),
        "optimizer.warmup_steps": (optimizer.warmup_steps, 0),
        "optimizer.max_grad_norm": (optimizer.max_grad_norm, 0),
        "run.steps": (run.steps, 1),
        "run.batch_pairs": (run.batch_pairs, 1),
        "run.micro_batch_pairs": (run.micro_batch_pairs, 1),
        "run.checkpoint_every_steps": (run.checkpoint_every_steps, 1),
        "run.keep_checkpoints": (run.keep_checkpoints, 1),
        "run.seed": (run.seed, 0),
        "lora.rank": (recipe.lora.rank if recipe.lora else 1, 1),
    }
    for name, (value, least) in at_least.items():
        if not value >= least:
            raise SettingsError(f"`{name}` is {value:g}; it must be at least {least}.")
    if not 0 <= data.empty_prompt_probability <= 1:
        raise SettingsError(
            f"`data.empty_prompt_probability` must lie between 0 and 1; it is {data.empty_prompt_probability:g}."
        )
