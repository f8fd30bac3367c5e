"""Prompt files: .txt with a prompt a line, .tsv with a Prompt column, .json with a list."""

import csv
import json
from collections.abc import Callable
from importlib import resources
from pathlib import Path

from train.errors import PromptError


def bundled_prompts() -> Path:
    """The demo's prompts that no training pair has."""
    return Path(str(resources.files("data_manifests") / "demo/prompts/heldout.txt"))


def read_prompts(path: Path) -> list[str]:
    """The prompts of a file, in its order, without blank ones and repeats.

    Raises: PromptError naming the file and what it should hold.
    """
    readers: dict[str, Callable[[str], list[str]]] = {".txt": str.splitlines, ".tsv": _from_tsv, ".json": _from_json}
    if path.suffix not in readers:
        raise PromptError(f"{path} is neither .txt, .tsv nor .json.")
    try:
        found = readers[path.suffix](path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise PromptError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise PromptError(
            f"{path} holds no prompts: a .tsv needs a column Prompt, a .json a list of strings or of objects"
            " with a key prompt."
        ) from error
    prompts = list(dict.fromkeys(prompt.strip() for prompt in found if prompt and prompt.strip()))
    if not prompts:
        raise PromptError(f"{path} holds no prompts.")
    return prompts


def _from_tsv(text: str) -> list[str]:
    reader = csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    return [row["Prompt"] for row in reader]


def _from_json(text: str) -> list[str]:
    document = json.loads(text)
    if not isinstance(document, list):
        raise ValueError("not a list")
    return [entry if isinstance(entry, str) else str(entry["prompt"]) for entry in document]
