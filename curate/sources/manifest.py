"""A data set's manifest: TOML in, a typed description out. Columns of a data set are named here only."""

import tomllib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from curate.errors import ManifestError, UsageError, nearest
from schemas.manifests import (
    CANDIDATE_COLUMNS,
    CANDIDATE_KEYS,
    CANDIDATE_RULES,
    COLUMN_KEYS,
    LABEL_KEYS,
    MANIFEST_KEYS,
    QUERY_KEYS,
    REQUIRED_COLUMNS,
    RULE_KEYS,
    SAMPLED_KEYS,
    SAMPLED_MODEL_KEYS,
    SPLIT_KEYS,
)
from schemas.tables import DROPPED, PAIRS

BUNDLED = Path(str(files("data_manifests")))
DEMO = "demo"
LABELS = (0.0, 0.5, 1.0)
BY_MODEL, BY_UID = "models", "uids"
LABEL_COLUMNS = ("label_0", "label_1", "votes_0", "votes_1", "votes", "share_0")
SIDE_WORDS = ("preferred", "rejected")
WORKING_NAMES = (
    "pair",
    "file",
    "given_label",
    "stated",
    "place",
    "bad_text",
    "image_0_size_bytes",
    "image_1_size_bytes",
)
SIDE_COLUMNS = ("uid", "bytes", "path", "model")


@dataclass(frozen=True)
class Split:
    """`files`: paths, globs or fsspec URLs. `rows`: what the publisher states, or None."""

    files: tuple[str, ...]
    rows: int | None = None


@dataclass(frozen=True)
class LabelRules:
    """A manifest's [labels]: what marks mean, and when votes are a tie.

    values: what a mark or one vote may be, as text -> 1 (image 0 preferred), 0 (image 1) or 0.5 (a tie); empty: they
    are these numbers themselves. by: "models" or "uids" where a mark names the preferred image's model or uid.
    least_margin: votes more than the other side has, below which a pair is a tie; least_share: the same as a share
    of all votes, 0.5 to 1.
    """

    values: dict[str, float] = field(default_factory=dict)
    by: str | None = None
    least_margin: float = 0.0
    least_share: float = 0.5


@dataclass(frozen=True)
class Candidates:
    """How one row a picture becomes pairs. rule: of candidate_pairs.sql; per_prompt: most pairs of a group."""

    rule: str = "best-worst"
    per_prompt: int | None = None


@dataclass(frozen=True)
class Manifest:
    """A data set of pairs. `columns` maps our names (schemas.manifests) to the data set's; or `query` returns ours.

    images: where relative paths start, folders, zips or tars; empty: beside the file that names them.
    always_0: image 0 is the preferred one without a label. keep: the set's own columns that stay beside a pair.
    dimension: of several questions about a pair, the one that counts; None: their mean.
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
    query: str | None = None
    images: tuple[str, ...] = ()
    labels: LabelRules = field(default_factory=LabelRules)
    always_0: bool = False
    candidates: Candidates | None = None
    keep: tuple[str, ...] = ()
    dimension: str | None = None

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
        told = {
            "query": self.query,
            "images": list(self.images),
            "labels": _stated(self.labels) if self.labels != LabelRules() else None,
            "always_0": self.always_0,
            "candidates": _stated(self.candidates) if self.candidates else None,
            "keep": list(self.keep),
            "dimension": self.dimension,
            "sampled": self.sampled,
        }
        return decided | {key: value for key, value in told.items() if value}

    def about(self) -> dict[str, str]:
        """What the manifest says of the data set for people, for run.toml; it decides no table."""
        return {"description": self.description, "homepage": self.homepage, "license": self.license}


def _stated(of: LabelRules | Candidates) -> dict[str, Any]:
    """As TOML holds it: without what is not there."""
    return {key: value for key, value in asdict(of).items() if value is not None}


def load_manifest(name_or_path: str) -> Manifest:
    """Read a bundled manifest by name, or any manifest by path.

    Raises: ManifestError naming the file, the key and the nearest known key.
    """
    given = Path(name_or_path)
    if given.suffix != ".toml" and given.exists() and not (BUNDLED / f"{name_or_path}.toml").exists():
        raise ManifestError(
            f"{given} is no manifest; if it is your data, `curate inspect {given} --write my_pairs.toml` writes one"
        )
    path = bundled_or_path(name_or_path, BUNDLED, "bundled manifest", "; a file's name ends in .toml")
    raw = read_toml(path)
    check_keys(raw, MANIFEST_KEYS, path, "")
    candidates = _candidates(raw, path)
    columns, always_0 = _columns(raw, path, CANDIDATE_COLUMNS if candidates else COLUMN_KEYS)
    query = _query(raw, columns, path)
    if query is None and candidates is None:
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
        query=query,
        images=_texts(raw.get("images", []), "images", path),
        labels=_labels(raw, path),
        always_0=always_0 or candidates is not None,
        candidates=candidates,
        keep=_keep(raw, path, candidates),
        dimension=_text(raw, "dimension", path),
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


def _texts(value: Any, key: str, path: Path) -> tuple[str, ...]:
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list) or not all(isinstance(item, str) for item in given):
        raise ManifestError(f"{path}: '{key}' must be text or a list of texts, got {value!r}")
    return tuple(given)


def _columns(raw: dict[str, Any], path: Path, known: tuple[str, ...]) -> tuple[dict[str, str], bool]:
    """[columns] under our names; and whether they name a preferred and a rejected side, which are image 0 and 1."""
    given = _table(raw, "columns", path)
    sides = {f"{word}_{what}": f"image_{side}_{what}" for side, word in enumerate(SIDE_WORDS) for what in SIDE_COLUMNS}
    columns = {sides.get(key, key): value for key, value in given.items()}
    check_keys(columns, known, path, "columns.")
    named = [key for key in given if key in sides]
    if named and (len(columns) < len(given) or set(LABEL_COLUMNS) & set(columns)):
        raise ManifestError(
            f"{path}: 'columns.{named[0]}' says who is preferred; leave out the label and image_0, image_1"
        )
    return columns, bool(named)


def _keep(raw: dict[str, Any], path: Path, candidates: Candidates | None) -> tuple[str, ...]:
    """Names that neither our tables have nor the rows that become them."""
    keep = _texts(raw.get("keep", []), "keep", path)
    if keep and candidates is not None:
        raise ManifestError(
            f"{path}: 'keep' holds columns of a pair, and [candidates] has a row a picture; leave it out"
        )
    if ours := [name for name in keep if name.lower() in {*COLUMN_KEYS, *PAIRS.names, *DROPPED.names, *WORKING_NAMES}]:
        raise ManifestError(f"{path}: 'keep' has '{ours[0]}', a name of ours; give it another by a [query]")
    return keep


def _query(raw: dict[str, Any], columns: dict[str, str], path: Path) -> str | None:
    """[query]'s text, instead of [columns]."""
    table = _table(raw, "query", path)
    check_keys(table, QUERY_KEYS, path, "query.")
    if not table:
        return None
    if columns:
        raise ManifestError(f"{path}: [query] and [columns] both say how to read the files; keep one")
    if not (sql := _text(table, "sql", path)):
        raise ManifestError(f'{path}: [query] needs sql = "select ... from source"')
    return sql


def _labels(raw: dict[str, Any], path: Path) -> LabelRules:
    table = _table(raw, "labels", path)
    check_keys(table, LABEL_KEYS, path, "labels.")
    values = table.get("values", {})
    by = values if values in (BY_MODEL, BY_UID) else None
    if by is None and not (isinstance(values, dict) and all(value in LABELS for value in values.values())):
        raise ManifestError(
            f"{path}: 'labels.values' must give each mark 1 (image 0 preferred), 0 (image 1) or 0.5 (a tie), or be "
            f'"{BY_MODEL}" or "{BY_UID}", got {values!r}'
        )
    margin, share = table.get("least_margin", 0.0), table.get("least_share", 0.5)
    if type(margin) not in (int, float) or margin < 0:
        raise ManifestError(f"{path}: 'labels.least_margin' must be a number of votes from 0 up, got {margin!r}")
    if type(share) not in (int, float) or not 0.5 <= share <= 1:
        raise ManifestError(f"{path}: 'labels.least_share' must be from 0.5 to 1, got {share!r}")
    return LabelRules({} if by else {str(key): float(value) for key, value in values.items()}, by, margin, share)


def _candidates(raw: dict[str, Any], path: Path) -> Candidates | None:
    if "candidates" not in raw:
        return None
    table = _table(raw, "candidates", path)
    check_keys(table, CANDIDATE_KEYS, path, "candidates.")
    rule, per_prompt = table.get("rule", Candidates.rule), table.get("per_prompt")
    if rule not in CANDIDATE_RULES:
        raise ManifestError(f"{path}: 'candidates.rule' is {rule!r}{nearest(str(rule), CANDIDATE_RULES)}")
    if per_prompt is not None and (type(per_prompt) is not int or per_prompt < 1):
        raise ManifestError(f"{path}: 'candidates.per_prompt' must be a whole number from 1 up, got {per_prompt!r}")
    return Candidates(rule, per_prompt)


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
