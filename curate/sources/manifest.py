"""A data set's manifest: TOML in, a typed description out. Columns of a data set are named here only."""

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from curate.errors import ManifestError, UsageError, nearest
from schemas.manifests import (
    COLUMN_KEYS,
    MANIFEST_KEYS,
    REQUIRED_COLUMNS,
    RULE_KEYS,
    SAMPLED_KEYS,
    SAMPLED_MODEL_KEYS,
    SPLIT_KEYS,
)

BUNDLED = Path(str(files("data_manifests")))
DEMO = "demo"


@dataclass(frozen=True)
class Split:
    """`files`: paths, globs or fsspec URLs. `rows`: what the publisher states, or None."""

    files: tuple[str, ...]
    rows: int | None = None


@dataclass(frozen=True)
class Manifest:
    """A data set of pairs. `columns` maps our names (schemas.manifests) to the data set's.

    sampled: how the pictures were drawn, where `train sample` drew them; else empty.
    """

    name: str
    path: Path
    columns: dict[str, str]
    splits: dict[str, Split]
    default_split: str
    models: str | None = None
    control_image_uids: tuple[str, ...] = ()
    description: str = ""
    homepage: str = ""
    license: str = ""
    sampled: dict[str, Any] = field(default_factory=dict)
    judged: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "judged", "label_0" in self.columns)

    def split(self, name: str | None) -> tuple[str, Split]:
        """The named split, or the default one. Raises UsageError for an unknown name."""
        chosen = name or self.default_split
        if chosen not in self.splits:
            raise UsageError(f"manifest '{self.name}' has no split '{chosen}'{nearest(chosen, self.splits)}")
        return chosen, self.splits[chosen]

    def settings(self) -> dict[str, Any]:
        """What of the manifest decides the tables, for run.toml."""
        decided = {
            "name": self.name,
            "columns": dict(self.columns),
            "control_image_uids": list(self.control_image_uids),
        }
        return decided | ({"sampled": self.sampled} if self.sampled else {})

    def about(self) -> dict[str, str]:
        """What the manifest says of the data set for people, for run.toml; it decides no table."""
        return {"description": self.description, "homepage": self.homepage, "license": self.license}


def load_manifest(name_or_path: str) -> Manifest:
    """Read a bundled manifest by name, or any manifest by path.

    Raises: ManifestError naming the file, the key and the nearest known key.
    """
    path = bundled_or_path(name_or_path, BUNDLED, "bundled manifest", "; a file's name ends in .toml")
    raw = read_toml(path)
    check_keys(raw, MANIFEST_KEYS, path, "")
    columns = _table(raw, "columns", path)
    check_keys(columns, COLUMN_KEYS, path, "columns.")
    _check_columns(columns, path)
    rules = _table(raw, "rules", path)
    check_keys(rules, RULE_KEYS, path, "rules.")
    splits = {name: _split(name, value, path) for name, value in _table(raw, "splits", path).items()}
    if not splits:
        raise ManifestError(f"{path}: no [splits.NAME] table; add one with files = [...]")
    texts = {key: _text(raw, key, path) for key in ("name", "description", "homepage", "license", "models")}
    default_split = _text(raw, "default_split", path) or next(iter(splits))
    if default_split not in splits:
        raise ManifestError(f"{path}: default_split '{default_split}' is not a split{nearest(default_split, splits)}")
    return Manifest(
        name=texts["name"] or path.stem,
        path=path,
        columns=columns,
        splits=splits,
        default_split=default_split,
        models=texts["models"],
        control_image_uids=_control_image_uids(rules, path),
        description=(texts["description"] or "").strip(),
        homepage=texts["homepage"] or "",
        license=texts["license"] or "",
        sampled=_sampled(raw, path),
    )


def read_toml(path: Path) -> dict[str, Any]:
    """Parse a TOML file. Raises ManifestError when it is missing or malformed."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read ({error.strerror}); give a path to a TOML file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: not valid TOML: {error}") from error


def bundled_or_path(name_or_path: str, folder: Path, kind: str, advice: str = "") -> Path:
    """A TOML file by its path, which ends in .toml, or one of `folder` by its name. Raises ManifestError."""
    if name_or_path.endswith(".toml"):
        return Path(name_or_path)
    bundled = {path.stem: path for path in folder.glob("*.toml")}
    if name_or_path not in bundled:
        raise ManifestError(f"no {kind} is named '{name_or_path}'{nearest(name_or_path, bundled)}{advice}")
    return bundled[name_or_path]


def check_keys(keys: Iterable[str], known: tuple[str, ...], path: Path, prefix: str) -> None:
    """Raises ManifestError for a key that is not known; `prefix` leads to it, such as "columns."."""
    for key in keys:
        if key not in known:
            raise ManifestError(f"{path}: unknown key '{prefix}{key}'{nearest(key, known)}")


def _table(raw: dict[str, Any], key: str, path: Path) -> dict[str, Any]:
    value = raw.get(key, {})
    if not isinstance(value, dict):
        raise ManifestError(f"{path}: '{key}' must be a table, got {type(value).__name__}")
    return value


def _text(raw: dict[str, Any], key: str, path: Path) -> str | None:
    value = raw.get(key)
    if value is not None and not isinstance(value, str):
        raise ManifestError(f"{path}: '{key}' must be text, got {value!r}")
    return value


def _control_image_uids(rules: dict[str, Any], path: Path) -> tuple[str, ...]:
    uids = rules.get("control_image_uids", [])
    if not isinstance(uids, list) or not all(isinstance(uid, str) for uid in uids):
        raise ManifestError(f"{path}: 'rules.control_image_uids' must be a list of image uids, got {uids!r}")
    return tuple(uids)


def _sampled(raw: dict[str, Any], path: Path) -> dict[str, Any]:
    sampled = _table(raw, "sampled", path)
    check_keys(sampled, SAMPLED_KEYS, path, "sampled.")
    models = sampled.get("models", [])
    if not isinstance(models, list) or not all(isinstance(model, dict) and "name" in model for model in models):
        raise ManifestError(f"{path}: 'sampled.models' must be tables with a name, got {models!r}")
    for model in models:
        check_keys(model, SAMPLED_MODEL_KEYS, path, "sampled.models.")
    return sampled


def _check_columns(columns: dict[str, Any], path: Path) -> None:
    for key, value in columns.items():
        if not isinstance(value, str):
            raise ManifestError(f"{path}: 'columns.{key}' must name a column, got {value!r}")
    for key in REQUIRED_COLUMNS:
        if key not in columns:
            raise ManifestError(f"{path}: 'columns.{key}' is missing; name the column that holds it")
    for side in (0, 1):
        given = [key for key in (f"image_{side}_bytes", f"image_{side}_path") if key in columns]
        if len(given) != 1:
            raise ManifestError(
                f"{path}: map exactly one of 'columns.image_{side}_bytes' and 'columns.image_{side}_path', "
                f"got {' and '.join(given) or 'neither'}"
            )
    if "label_1" in columns and "label_0" not in columns:
        raise ManifestError(f"{path}: 'columns.label_1' without 'columns.label_0'; map label_0 too")


def _split(name: str, raw: Any, path: Path) -> Split:
    if not isinstance(raw, dict):
        raise ManifestError(f"{path}: 'splits.{name}' must be a table with files = [...]")
    check_keys(raw, SPLIT_KEYS, path, f"splits.{name}.")
    names = raw.get("files")
    if not isinstance(names, list) or not names or not all(isinstance(item, str) for item in names):
        raise ManifestError(f"{path}: 'splits.{name}.files' must be a list of paths, globs or URLs")
    rows = raw.get("rows")
    if rows is not None and (type(rows) is not int or rows < 0):
        raise ManifestError(f"{path}: 'splits.{name}.rows' must be a whole number, got {rows!r}")
    return Split(files=tuple(names), rows=rows)
