"""Sets of prompts: a file of the user's, or a set by its bundled manifest together with the user's copy of it.

.txt has a prompt a line; .tsv, .json (a list) and .parquet have a column prompt, Prompt or caption, and may have a
column category or Category. The project ships manifests of known sets (data_manifests/prompts), never the sets.
"""

import json
import tomllib
from dataclasses import dataclass
from importlib import resources
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.manifests import CATEGORY_COLUMNS, PROMPT_BLOCK_KEYS, PROMPT_COLUMN_KEYS, PROMPT_COLUMNS, PROMPT_SET_KEYS
from train.errors import PromptError

FORMATS = (".txt", ".tsv", ".json", ".parquet")
SETS = resources.files("data_manifests") / "prompts"

Row = dict[str, Any]


class Prompt(NamedTuple):
    """A text to draw, and its category where the set has one."""

    text: str
    category: str | None = None


@dataclass(frozen=True)
class PromptSet:
    """rows = prompts + blank + repeats. `expected_rows`: what the set's manifest states, if one was named."""

    name: str
    prompts: list[Prompt]
    rows: int
    blank: int
    repeats: int
    expected_rows: int | None = None

    def notes(self) -> list[str]:
        """What a reader should know of the set, one sentence each."""
        found = []
        if self.expected_rows not in (None, self.rows):
            found.append(f"The set {self.name} has {self.expected_rows:,} rows, this file {self.rows:,}.")
        if self.repeats or self.blank:
            left_out = {"repeats": self.repeats, "blank": self.blank}
            terms = "".join(f" + {count:,} {word}" for word, count in left_out.items() if count)
            found.append(f"{self.name}: {self.rows:,} rows = {len(self.prompts):,} prompts{terms}; each is drawn once.")
        return found


def bundled_prompts() -> Path:
    """The demo's prompts that no training pair has."""
    return Path(str(resources.files("data_manifests") / "demo/prompts/heldout.txt"))


def load_prompts(name_or_path: str, copy: Path | None = None) -> PromptSet:
    """A file's prompts, or those of a bundled set: `copy` is the user's file of it.

    Raises: PromptError.
    """
    names = sorted(item.name.removesuffix(".toml") for item in SETS.iterdir() if item.name.endswith(".toml"))
    if name_or_path in names and not Path(name_or_path).exists():
        set_manifest = tomllib.loads((SETS / f"{name_or_path}.toml").read_text("utf-8"))
        _check_keys(set_manifest)
        if copy is None:
            source = set_manifest["source"]
            raise PromptError(f"The set {name_or_path} is not shipped; fetch {source} and give it by --prompts-file.")
        return read_prompts(copy, set_manifest)
    known = f"the known sets are {', '.join(names)}."
    if copy is not None:
        raise PromptError(f"--prompts-file is the copy of a known set, and {name_or_path} is none; {known}")
    if Path(name_or_path).suffix not in FORMATS:
        raise PromptError(f"{name_or_path} is neither {', '.join(FORMATS)} nor a known set; {known}")
    return read_prompts(Path(name_or_path))


def read_prompts(path: Path, set_manifest: dict[str, Any] | None = None) -> PromptSet:
    """The prompts of a file, in its order, blank ones and repeats left out and counted.

    set_manifest: names the columns and blocks of a known set. Raises: PromptError naming the file and the cause.
    """
    set_manifest = set_manifest or {}
    if path.suffix not in FORMATS:
        raise PromptError(f"{path} is neither {', '.join(FORMATS[:-1])} nor {FORMATS[-1]}.")
    try:
        rows = {".txt": _from_txt, ".tsv": _from_tsv, ".json": _from_json, ".parquet": _from_parquet}[path.suffix](path)
        found = _prompts(rows, set_manifest.get("columns", {}))
    except (OSError, UnicodeError, pa.ArrowException) as error:
        raise PromptError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    except (ValueError, KeyError, TypeError) as error:
        wanted = " or ".join([set_manifest["columns"]["prompt"]] if set_manifest else PROMPT_COLUMNS)
        raise PromptError(
            f"{path} holds no prompts: a .tsv or .parquet needs a column {wanted}, a .json a list of strings or of"
            " objects with such a key."
        ) from error
    found = _in_blocks(found, set_manifest.get("blocks", []))
    written = [one for one in found if one.text]
    first: dict[str, Prompt] = {}
    for one in written:
        first.setdefault(one.text, one)
    prompts = list(first.values())
    if not prompts:
        raise PromptError(f"{path} holds no prompts.")
    return PromptSet(
        name=set_manifest.get("name", str(path)),
        prompts=prompts,
        rows=len(found),
        blank=len(found) - len(written),
        repeats=len(written) - len(prompts),
        expected_rows=set_manifest.get("rows"),
    )


def _prompts(rows: list[Row], columns: dict[str, str]) -> list[Prompt]:
    """Raises KeyError where a row has no prompt column."""
    keys = rows[0] if rows else {}
    prompt = columns.get("prompt") or next((name for name in PROMPT_COLUMNS if name in keys), PROMPT_COLUMNS[0])
    category = columns.get("category") or next((name for name in CATEGORY_COLUMNS if name in keys), "")
    return [Prompt(_text(row[prompt]) or "", _text(row.get(category)) or None) for row in rows]


def _text(value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise TypeError(f"not text: {value!r}")
    if not value:
        return None
    value.encode()  # half a surrogate pair, as JSON can hold it, is no text: UnicodeEncodeError
    return value.strip()


def _in_blocks(prompts: list[Prompt], blocks: list[dict[str, Any]]) -> list[Prompt]:
    """Categories by place, where a set's manifest says so and the file is as long as it says."""
    categories = [block["category"] for block in blocks for _ in range(block["rows"])]
    if len(categories) != len(prompts):
        return prompts
    return [Prompt(one.text, category) for one, category in zip(prompts, categories, strict=True)]


def _from_txt(path: Path) -> list[Row]:
    return [{"prompt": line} for line in _lines(path)]


def _from_tsv(path: Path) -> list[Row]:
    header, *lines = (line.split("\t") for line in _lines(path) if line)
    return [dict(zip_longest(header, fields[: len(header)])) for fields in lines]


def _lines(path: Path) -> list[str]:
    """Lines end at a line feed alone: U+2028 and its like are part of a prompt."""
    return path.read_text("utf-8-sig").removesuffix("\n").split("\n")


def _from_json(path: Path) -> list[Row]:
    document = json.loads(path.read_text("utf-8-sig"))
    if not isinstance(document, list):
        raise ValueError("not a list")
    return [{"prompt": entry} if isinstance(entry, str) else dict(entry) for entry in document]


def _from_parquet(path: Path) -> list[Row]:
    texts = [field.name for field in pq.read_schema(path) if _is_text(field.type)]  # never pictures
    return pq.read_table(path, columns=texts).to_pylist()


def _is_text(kind: pa.DataType) -> bool:
    """pandas writes large strings, polars views of them, both a dictionary of a categorical column."""
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(plain) or pa.types.is_large_string(plain) or pa.types.is_string_view(plain)


def _check_keys(set_manifest: dict[str, Any]) -> None:
    """Raises PromptError for a key that no manifest of prompts has."""
    tables = [(set_manifest, PROMPT_SET_KEYS), (set_manifest.get("columns", {}), PROMPT_COLUMN_KEYS)]
    tables += [(block, PROMPT_BLOCK_KEYS) for block in set_manifest.get("blocks", [])]
    for table, known in tables:
        for key in table:
            if key not in known:
                raise PromptError(f"{set_manifest['name']}.toml: unknown key {key}; known: {', '.join(known)}.")
