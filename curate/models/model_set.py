"""A set of models: which towers embed, which scorers score, and where their weights lie (TOML)."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from curate.errors import ManifestError, UsageError, nearest
from curate.models.plugins import installed
from curate.sources.manifest import BUNDLED, bundled_or_path, check_keys, read_toml

FAMILY_KEYS: dict[str, tuple[str, ...]] = {
    "open_clip": ("model", "pretrained", "weights", "folder", "sha256"),
    "transformers_clip": ("model", "processor", "revision", "processor_revision", "max_tokens", "sha256"),
    "hpsv2": ("model", "folder", "checkpoint", "sha256"),
}
HEAD_KEYS: dict[str, tuple[str, ...]] = {
    "cosine": (),
    "scaled_cosine": (),
    "aesthetic": ("weights", "sha256"),
    "nsfw": ("weights", "sha256"),
    "words": ("words", "sha256"),
    "image_reward": ("checkpoint", "sha256", "med_config", "tokenizer", "tokenizer_revision"),
}
WITHOUT_TOWER = ("words", "image_reward")  # heads that read the prompt's text or the pixels, not embeddings
REQUIRED_KEYS = {
    "transformers_clip": ("model",),
    "hpsv2": ("checkpoint",),
    "aesthetic": ("weights",),
    "nsfw": ("weights",),
    "words": ("words",),
    "image_reward": ("checkpoint", "med_config", "tokenizer"),
}
RESERVED = ("psi", "score_id")  # `<scorer>` and `<scorer>_preferred` are columns of a run's views
DEFAULT_SCORERS = ("clip", "pickscore", "aesthetic")


@dataclass(frozen=True)
class TowerSpec:
    """One model that turns images and prompts into embeddings; `options` are its family's keys."""

    name: str
    family: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ScorerSpec:
    """One float for one (prompt, image). `tower`: whose embeddings the head reads; None where it reads none.

    `head` is a built-in one, or the entry point of an installed scorer (curate/models/plugins.py).
    """

    name: str
    tower: str | None
    head: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelSet:
    """Towers and scorers by name; `folder` is what their relative paths start from."""

    name: str
    folder: Path
    towers: dict[str, TowerSpec]
    scorers: dict[str, ScorerSpec]

    @property
    def location(self) -> str:
        """What --models takes to load this set again from anywhere: its name when bundled, else its absolute path."""
        return self.name if self.folder == (BUNDLED / "models").resolve() else str(self.folder / f"{self.name}.toml")

    def choose(self, names: list[str]) -> list[ScorerSpec]:
        """The named scorers in the given order. Raises UsageError for an unknown or repeated name."""
        if not names:
            raise UsageError(f"--scorers names none; known: {', '.join(sorted(self.scorers))}")
        for name in names:
            if name not in self.scorers:
                raise UsageError(f"the models '{self.name}' have no scorer '{name}'{nearest(name, self.scorers)}")
        if len(set(names)) != len(names):
            raise UsageError(f"--scorers names one twice: {','.join(names)}")
        return [self.scorers[name] for name in names]

    def towers_of(self, scorers: list[ScorerSpec]) -> list[TowerSpec]:
        """The towers that these scorers need, each once."""
        return [self.towers[name] for name in dict.fromkeys(scorer.tower for scorer in scorers) if name is not None]


def load_model_set(name_or_path: str) -> ModelSet:
    """Read a bundled set by name or any set by path.

    Raises: ManifestError naming file and key; ModelError when two packages give the installed scorer that it names.
    """
    path = bundled_or_path(name_or_path, BUNDLED / "models", "set of models")
    raw = read_toml(path)
    check_keys(raw, ("towers", "scorers"), path, "")
    towers = {name: _tower(name, value, path) for name, value in _tables(raw, "towers", path).items()}
    scorers = {name: _scorer(name, value, towers, path) for name, value in _tables(raw, "scorers", path).items()}
    if not scorers:
        raise ManifestError(f"{path}: no [scorers.NAME] table")
    if len({name.casefold() for name in scorers}) < len(scorers):
        raise ManifestError(f"{path}: two scorers differ by upper and lower case only, and columns do not")
    return ModelSet(path.stem, path.resolve().parent, towers, scorers)


def _tables(raw: dict[str, Any], key: str, path: Path) -> dict[str, dict[str, Any]]:
    """The tables [key.NAME], by name."""
    tables = raw.get(key, {})
    if not isinstance(tables, dict) or not all(isinstance(value, dict) for value in tables.values()):
        raise ManifestError(f"{path}: '{key}' must hold tables, each under its own [{key}.NAME]")
    return tables


def _tower(name: str, raw: dict[str, Any], path: Path) -> TowerSpec:
    family = raw.get("family")
    if not isinstance(family, str) or family not in FAMILY_KEYS:
        raise ManifestError(f"{path}: 'towers.{name}.family' is {family!r}{nearest(str(family), FAMILY_KEYS)}")
    options = {key: value for key, value in raw.items() if key != "family"}
    _check_options(options, family, FAMILY_KEYS[family], path, f"towers.{name}.")
    return TowerSpec(name, family, options)


def _scorer(name: str, raw: dict[str, Any], towers: dict[str, TowerSpec], path: Path) -> ScorerSpec:
    if not name.isidentifier():
        raise ManifestError(f"{path}: scorer '{name}' names columns, so use letters, digits and _ only")
    if name.casefold() in RESERVED:
        raise ManifestError(f"{path}: scorer '{name}' bears the name of a column that is there already")
    head, tower = raw.get("head"), raw.get("tower")
    if not isinstance(head, str) or not (head in HEAD_KEYS or head in installed()):
        known = {*HEAD_KEYS, *installed()}
        raise ManifestError(f"{path}: 'scorers.{name}.head' is {head!r}{nearest(str(head), known)}")
    if head in WITHOUT_TOWER and tower is not None:
        raise ManifestError(f"{path}: 'scorers.{name}.tower' is {tower!r}, but {head} reads no embeddings; remove it")
    optional = head in WITHOUT_TOWER or head not in HEAD_KEYS
    if not (optional and tower is None) and (not isinstance(tower, str) or tower not in towers):
        raise ManifestError(f"{path}: 'scorers.{name}.tower' is {tower!r}{nearest(str(tower), towers)}")
    options = {key: value for key, value in raw.items() if key not in ("head", "tower")}
    if head in HEAD_KEYS:  # an installed scorer checks its own when it is made
        _check_options(options, head, HEAD_KEYS[head], path, f"scorers.{name}.")
    return ScorerSpec(name, tower, head, options)


def _check_options(options: dict[str, Any], kind: str, known: tuple[str, ...], path: Path, prefix: str) -> None:
    for key in options:
        check_keys([key], known, path, prefix)
        wanted = int if key == "max_tokens" else str
        if not isinstance(options[key], wanted):
            words = "a whole number" if wanted is int else "text"
            raise ManifestError(f"{path}: '{prefix}{key}' must be {words}, got {options[key]!r}")
    for key in REQUIRED_KEYS.get(kind, ()):
        if key not in options:
            raise ManifestError(f"{path}: '{prefix}{key}' is missing; {kind} needs it")
