"""The recipe of a run: frozen dataclasses, filled from a preset, then a TOML file, then flags."""

import dataclasses
import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, cast, get_args, get_origin, get_type_hints

import tomli_w

from train.errors import SettingsError

Table = dict[str, Any]


class Bounds(NamedTuple):
    """Beside the type of a setting: what it must be at least, and at most if there is a limit."""

    least: float = 0
    most: float | None = None

    def check(self, name: str, value: float) -> None:
        """Raises: SettingsError; NaN lies within no bounds."""
        if self.most is None and not value >= self.least:
            raise SettingsError(f"`{name}` is {value:g}; it must be at least {self.least}.")
        if self.most is not None and not self.least <= value <= self.most:
            raise SettingsError(f"`{name}` must lie between {self.least} and {self.most:g}; it is {value:g}.")


class ReadBy(NamedTuple):
    """Beside the type of a setting of Objective: the objectives that read it, where not all do."""

    first: str
    second: str | None = None


Auto = Literal["auto"]  # instead of a value: chosen when the run begins
Count = Annotated[int, Bounds(1)]
NonNegative = Annotated[float, Bounds(0)]
Probability = Annotated[float, Bounds(0, 1)]


@dataclass(frozen=True)
class Timesteps:
    """How a pair's timestep is drawn, as a share of the noise schedule: 0 next to none, 1 all noise.

    uniform, or logit-normal: the sigmoid of a normal draw (arXiv 2403.03206, eq. 19). A `shift` of a takes share u to
    a u / (1 + (a - 1) u), so above 1 it draws more noise (the same, eq. 23); `least` and `most` then squeeze it between
    them. `only`, where given, are the timesteps themselves, drawn evenly.
    """

    law: Literal["uniform", "logit-normal"] = "uniform"
    mean: float = 0.0  # of the normal draw
    deviation: NonNegative = 1.0
    shift: Annotated[float, Bounds(0.001)] = 1.0
    least: Probability = 0.0
    most: Probability = 1.0
    only: tuple[Annotated[int, Bounds(0)], ...] = ()


@dataclass(frozen=True)
class Data:
    """What is read, and what is drawn about it."""

    resolution_px: Annotated[int, Bounds(8)]  # the short side is brought to it, the middle square is kept
    flips: bool  # mirror both images of a pair, or neither, with probability 1/2
    empty_prompt_probability: Probability
    verify_shards: bool
    order: Literal["shuffled", "ranked", "reversed", "weighted"] = "shuffled"  # see `random_draws.PairOrder`
    buckets: bool = False  # cut each pair to the nearest of a few shapes, not to a square; see buckets.py
    validation_pairs: Count | None = None  # held out, prompt by prompt, and never trained on
    sdxl_sizes: Literal["own", "resolution"] = "own"  # SDXL is told each picture's size and cut, or one size, uncut
    empty_prompts: Literal["pipeline", "encoded"] = "pipeline"  # zeros where the pipeline has them, or "" encoded
    timesteps: Timesteps = Timesteps()


@dataclass(frozen=True)
class Objective:
    """What is minimised: a function of objectives.py. A key that the named objective has no use for is refused.

    beta: KL strength; see `objectives.reward_margin` for its convention, and `beta_aim.py` for "auto". The keys that
    end in `_by` name a value that the shards give each pair: `quality`, `strength`, or `<scorer>_margin`.
    """

    name: Literal["dpo", "cdpo", "ipo", "slic-hf", "dspo", "dmpo", "alpha", "gce", "linear", "orpo", "mapo", "sft"]
    beta: NonNegative | Auto  # auto: so that the mean gradient factor is `beta_aim`
    beta_aim: Annotated[float, Bounds(0.01, 0.49)] = 0.2
    beta_most: NonNegative = 10_000.0  # of auto
    beta_by: str | None = None  # of each pair: beta times value / mean value
    beta_space: Literal["prediction", "epsilon", "velocity"] = "prediction"  # where it is one for all timesteps
    label_smoothing: Annotated[float, Bounds(0, 0.5), ReadBy("cdpo", "dmpo")] = 0.1  # how often a label is wrong
    label_smoothing_by: Annotated[str | None, ReadBy("cdpo", "dmpo")] = None  # instead, of each pair: 1 - value
    hinge: Annotated[NonNegative, ReadBy("slic-hf")] = 1.0  # the margin beyond which a pair costs nothing
    odds_weight: Annotated[NonNegative, ReadBy("orpo", "mapo")] = 0.1  # of the second term
    alpha: Annotated[float, Bounds(0.01, 0.9999), ReadBy("alpha")] = 0.5  # of the divergence; near 1 it is dpo
    gce_power: Annotated[float, Bounds(0.01, 1), ReadBy("gce")] = 0.5  # near 0 it is dpo, 1: the share that is wrong
    least_weight: Annotated[float, Bounds(0, 0.5), ReadBy("linear")] = 0.05  # of a pair, one less it is the largest
    sft_weight: NonNegative = 0.0  # of the preferred image's error, added to any of them
    anchor_weight: NonNegative = 0.0  # of the prediction's squared distance from the reference's, likewise
    preserve_winner: Probability | None = None  # mu of objectives.winner_preserved; absent: off
    weight_by: str | None = None  # the loss times value / mean value
    offset_by: Annotated[str | None, ReadBy("dpo")] = None  # the margin asked for is offset_scale * value
    offset_scale: Annotated[float, ReadBy("dpo")] = 1.0
    reference: str = "start"  # or "ema", a moving average of the policy; or a model, as a folder or hub id
    reference_decay: Probability = 0.99  # of that average, at each step

    @property
    def fixed_beta(self) -> float:
        """`beta`, where it is a number."""
        if self.beta == "auto":
            raise ValueError("objective.beta changes from step to step: see training/steering/beta_aim.py")
        return self.beta

    @property
    def has_margin(self) -> bool:
        """Whether the loss is one of the margin between policy and reference, whose size beta sets."""
        return self.name not in ("orpo", "mapo", "sft")

    @property
    def uses_reference(self) -> bool:
        """Whether the loss depends on the reference's errors."""
        return self.has_margin or self.anchor_weight > 0

    @property
    def uses_rejected(self) -> bool:
        """Whether the loss depends on the rejected image."""
        return self.name != "sft"


@dataclass(frozen=True)
class Lora:
    """Adapters of rank `rank`, scaled by alpha / rank, on every layer of the denoiser whose name ends in a target."""

    rank: Count
    alpha: Count | None = None  # absent: equal to the rank
    targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")
    dora: bool = False  # weight-decomposed: magnitudes are trained beside directions
    init: Literal["gaussian", "kaiming"] = "gaussian"  # of the first matrix; the second is zero. See lora.py


@dataclass(frozen=True)
class Optimizer:
    """Linear warm-up to `learning_rate`, then `schedule`; gradients clipped to `max_grad_norm`.

    adamw8bit keeps AdamW's state in 8 bits (extra `bitsandbytes`); adafactor keeps next to none, and reads
    neither betas nor epsilon.
    """

    learning_rate: NonNegative
    warmup_steps: Annotated[int, Bounds(0)]
    betas: tuple[float, float]
    weight_decay: NonNegative
    epsilon: NonNegative
    max_grad_norm: NonNegative
    name: Literal["adamw", "adamw8bit", "adafactor"] = "adamw"
    schedule: Literal["constant", "linear", "cosine"] = "constant"  # linear and cosine fall to 0 at the last step
    lora_b_ratio: Annotated[float, Bounds(1)] = 1.0  # LoRA's second matrix learns so much faster (arXiv 2402.12354)
    fused: bool | None = None  # adamw in one kernel; absent: on a GPU only
    skip_grad_norm_over: NonNegative | None = None  # a step whose gradient is larger is not taken
    ema_decay: Probability | None = None  # the model saved is a moving average of the weights with this decay


@dataclass(frozen=True)
class Run:
    """How long, how wide and how exact."""

    steps: Count
    batch_pairs: Count
    micro_batch_pairs: Count | Auto  # in one forward; auto: as many as free memory holds, see training/cost.py
    mixed_precision: Literal["no", "fp16", "bf16"]
    gradient_checkpointing: bool | Auto  # auto: only where memory is short without
    checkpoint_every_steps: Count
    keep_checkpoints: Count
    seed: Annotated[int, Bounds(0)]
    max_epochs: Annotated[float, Bounds(1)] | None = None  # `steps` are fewer where they would be more passes
    checkpoint_minutes: NonNegative | None = 30.0  # a checkpoint when the last is older, too
    channels_last: bool = False
    compile: bool = False
    fsdp: bool = False  # spread weights, gradients and moments over the processes; see fsdp.py
    validate_every_steps: Count | None = None  # the implicit accuracy on data.validation_pairs
    sample_every_steps: Count | None = None  # pictures of base and policy from fixed seeds, side by side
    sample_prompts: Count = 4
    wandb_project: str | None = None  # also log to Weights & Biases (extra `wandb`)
    stop_winner_error_over: NonNegative | None = None  # times the reference's: then the run stops
    stop_winner_error_steps: Count = 50  # over which both are averaged

    @property
    def pairs_at_once(self) -> int:
        """`micro_batch_pairs`, once it is a number."""
        if self.micro_batch_pairs == "auto":
            raise ValueError("run.micro_batch_pairs is chosen before this: see training/cost.py")
        return self.micro_batch_pairs

    def epochs(self, pairs: int) -> float:
        """How often all steps go over so many pairs."""
        return self.steps * self.batch_pairs / pairs


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a run computes, but for the shards and the library versions."""

    model: str
    data: Data
    objective: Objective
    optimizer: Optimizer
    run: Run
    lora: Lora | None = None  # absent: full fine-tune
    # How the model is put together; see model/compose.py. Absent: as it is.
    revision: str | None = None  # branch, tag or commit of a hub id
    variant: str | None = None  # of its weight files, as fp16
    vae: str | None = None  # another AutoencoderKL: a folder or hub id
    single_file_config: str | None = None  # where `model` is one file: a pipeline folder or hub id of its kind

    @property
    def uses_reference(self) -> bool:
        """Whether anything looks at it: the loss, the implicit accuracy on held-out pairs, pictures while training."""
        run = self.run
        return self.objective.uses_reference or bool(run.validate_every_steps or run.sample_every_steps)

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


def model_named(config: Path | None) -> str | None:
    """The model that a file of settings names; its type is looked at later. Raises: SettingsError."""
    model = _file_table(config).get("model")
    return model if isinstance(model, str) else None


def _preset_table(name: str) -> Table:
    if name not in preset_names():
        raise SettingsError(f"There is no preset `{name}`; the presets are {', '.join(preset_names())}.")
    table = tomllib.loads((resources.files("train") / "presets" / f"{name}.toml").read_text("utf-8"))
    return _merge(_preset_table(below), table) if (below := table.pop("extends", None)) else table


def _file_table(path: Path | None) -> Table:
    if path is None:
        return {}
    try:
        return tomllib.loads(path.read_text("utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path} is not TOML: {error}.") from error


def _check_keys(table: Mapping[str, Any], section: type, origin: str, prefix: str = "") -> None:
    hints = _hints(section)
    for key, value in table.items():
        if key not in hints:
            nearest = difflib.get_close_matches(key, hints, n=1, cutoff=0.0)[0]
            raise SettingsError(f"{origin}: there is no setting `{prefix}{key}`; the nearest is `{prefix}{nearest}`.")
        if dataclasses.is_dataclass(section := hints[key][0]) and isinstance(value, Mapping):
            _check_keys(value, section, origin, f"{prefix}{key}.")


def _hints(section: type) -> dict[str, tuple[Any, ...]]:
    """Of each setting the type of a value that is there, and what stands beside it (`Bounds`, `ReadBy`)."""
    return {name: _unwrapped(hint) for name, hint in get_type_hints(section, include_extras=True).items()}


def _unwrapped(hint: Any) -> tuple[Any, ...]:
    """`Annotated[int, Bounds(1)] | None` as `(int, Bounds(1))`."""
    if get_origin(hint) is Annotated:
        inner, *beside = get_args(hint)
        return (*_unwrapped(inner), *beside)
    return _unwrapped(get_args(hint)[0]) if type(None) in get_args(hint) else (hint,)


def _merge(below: Table, above: Table) -> Table:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(below.get(key), dict)
        merged[key] = _merge(below[key], value) if both else value
    return merged


def _build(section: type, table: Any, prefix: str) -> Any:
    if not isinstance(table, dict):
        raise SettingsError(f"`{prefix[:-1]}` is a section with keys, not {table!r}.")
    for field in dataclasses.fields(section):
        if field.name not in table and field.default is dataclasses.MISSING:
            raise SettingsError(f"The setting `{prefix}{field.name}` has no value.")
    hints = _hints(section)
    return section(**{key: _value(hints[key], value, f"{prefix}{key}") for key, value in table.items()})


def _value(hint: tuple[Any, ...], value: Any, name: str) -> Any:
    """`value` as the type that the dataclass asks for, within its bounds; an integer passes for a float, nothing else.

    hint: as `_hints` gives it.
    """
    kind, *beside = hint
    if Auto in get_args(kind):  # as in `Count | Auto`
        inner = _unwrapped(get_args(kind)[0])
        if value == "auto":
            return value
        if type(value) not in ({int, float} if inner[0] is float else {inner[0]}):
            raise SettingsError(f"`{name}` is {value!r}; it must be of type {inner[0].__name__} or auto.")
        return _value(inner, value, name)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return _build(kind, value, f"{name}.")
    if get_origin(kind) is tuple:
        return _items(get_args(kind), value, name)
    if get_origin(kind) is Literal:
        if value not in (allowed := get_args(kind)):
            raise SettingsError(f"`{name}` is {value!r}; it must be one of {', '.join(allowed)}.")
        return value
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise SettingsError(f"`{name}` is {value!r}; it must be of type {kind.__name__}.")
    for bounds in beside:
        if isinstance(bounds, Bounds):
            bounds.check(name, value)
    return value


def _items(kinds: tuple[Any, ...], value: Any, name: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise SettingsError(f"`{name}` is {value!r}; it must be a list.")
    if kinds[-1] is not Ellipsis and len(value) != len(kinds):
        raise SettingsError(f"`{name}` holds {len(value)} values; it must hold {len(kinds)}.")
    return tuple(_value(_unwrapped(kinds[0]), item, name) for item in value)


def _check_values(recipe: Recipe) -> None:
    """What one type and its bounds do not say."""
    betas = recipe.optimizer.betas
    if not all(0 <= beta < 1 for beta in betas):
        raise SettingsError(f"`optimizer.betas` must lie between 0 and 1, and below 1; they are {betas}.")
    if recipe.run.validate_every_steps and not recipe.data.validation_pairs:
        raise SettingsError("`run.validate_every_steps` needs pairs to validate on; set `data.validation_pairs`.")
    if recipe.optimizer.lora_b_ratio > 1 and recipe.lora is None:
        raise SettingsError("`optimizer.lora_b_ratio` is for a LoRA, and the recipe has none; add --lora-rank.")
    if recipe.data.timesteps.least >= recipe.data.timesteps.most:
        raise SettingsError("`data.timesteps.least` must be below `data.timesteps.most`.")
    _check_objective(recipe.objective, fsdp=recipe.run.fsdp)


def _check_objective(objective: Objective, *, fsdp: bool) -> None:
    # A key that the objective does not read would change nothing, and whoever set it would not know.
    hints, changed = _hints(Objective), {f.name for f in dataclasses.fields(objective)} - {"name", "beta"}
    changed = {name for name in changed if getattr(objective, name) != getattr(Objective, name)}
    for name in sorted(changed):
        readers = [reader for one in hints[name] if isinstance(one, ReadBy) for reader in one if reader]
        if readers and objective.name not in readers:
            raise SettingsError(f"`objective.{name}` is read by {' and '.join(readers)} only, not by {objective.name}.")
    if "label_smoothing_by" in changed and "label_smoothing" in changed:
        raise SettingsError("`objective.label_smoothing_by` stands instead of `objective.label_smoothing`; set one.")
    if (objective.beta == "auto" or changed & {"beta_by", "beta_space"}) and not objective.has_margin:
        raise SettingsError(f"`{objective.name}` has no margin that a beta could scale; leave out what sets it.")
    if objective.beta != "auto" and changed & {"beta_aim", "beta_most"}:
        raise SettingsError('`objective.beta_aim` and `beta_most` are read with `objective.beta = "auto"` only.')
    if objective.preserve_winner is not None and not objective.uses_rejected:
        raise SettingsError(f"`objective.preserve_winner` scales the rejected image; {objective.name} has none.")
    if objective.reference == "ema" and fsdp:
        raise SettingsError('`objective.reference = "ema"` and `run.fsdp` do not go together; leave one out.')


def defaults(section: type = Recipe, prefix: str = "") -> Table:
    """What each key that has a default is where it is not set, by dotted name: what runs did before it was there."""
    found: Table = {}
    for field in dataclasses.fields(section):
        kind = _hints(section)[field.name][0]
        if dataclasses.is_dataclass(kind):
            found |= defaults(cast(type, kind), f"{prefix}{field.name}.")
        elif field.default is not dataclasses.MISSING:
            found[f"{prefix}{field.name}"] = list(field.default) if isinstance(field.default, tuple) else field.default
    return found


def as_toml(recipe: Table) -> str:
    """A recipe's table as TOML that `--config` takes; what is absent is left out."""
    return tomli_w.dumps(without_none(recipe))


def without_none(table: Table) -> Table:
    """Without the values that are None, and the sections that have no other."""
    inner = {name: without_none(value) if isinstance(value, dict) else value for name, value in table.items()}
    return {name: value for name, value in inner.items() if value not in (None, {})}


def flat(table: Table, prefix: str = "") -> Table:
    """Each value by the names that lead to it, joined by dots."""
    found: Table = {}
    for key, value in table.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found
