"""Writing so that a reader never sees half a file: temporary name, fsync, rename."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from schemas.runs import RUN, found_run
from train.errors import StorageError
from train.terminal import note

_note_once = cache(note)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path that becomes `path` when the block ends well, and vanishes when it does not.

    Raises: StorageError when the disk does not take it; whatever else the block raises.
    """
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            _sync(temporary)
            temporary.replace(path)
            _sync(path.parent)
    finally:
        with suppress(OSError):  # where the file could not be written, it may not be removable either
            temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """The same for a folder; one that stands at `path` is replaced as a whole."""
    temporary, replaced = path.with_name(f".{path.name}.partial"), path.with_name(f".{path.name}.replaced")
    try:
        with storage_errors(path):
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            yield temporary
            for written in (*temporary.rglob("*"), temporary):
                _sync(written)
            if path.exists():
                shutil.rmtree(replaced, ignore_errors=True)
                path.rename(replaced)
            temporary.rename(path)
            _sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(replaced, ignore_errors=True)


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turns what the disk refuses into a StorageError that names `path`."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, OSError | SafetensorError) and "(os error" not in str(error):  # a tokenizer's is bare
            raise
        reason = getattr(error, "strerror", None) or str(error)
        raise StorageError(f"{path} could not be written ({reason}); make room or choose another folder.") from error


def write_json(path: Path, document: dict[str, Any]) -> None:
    """An indented JSON file, whole or not at all. Raises: StorageError."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", "utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """What `write_json` wrote. Raises: OSError; ValueError where it is damaged: no JSON, or no object with a name."""
    document = json.loads(path.read_text("utf-8"))
    if not isinstance(document, dict) or not document:
        raise ValueError("it holds no JSON object")
    return document


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def run_folder() -> Path:
    """The run directory that defaults lie in: PAIRSIEVE_RUN, ./run, or the run that is found from where one stands."""
    named, here = os.environ.get("PAIRSIEVE_RUN"), Path(RUN)
    if named or (here / "shards").exists() or (here / "trained").exists():
        return Path(named or here)
    if (found := found_run()) != here:
        _note_once(f"Taking the run {found}, found from here.")
    return found


def absolute(source: str) -> str:
    """A model's name as it is understood from any folder: the whole path of what is here, a hub id as it is."""
    return str(Path(source).resolve()) if Path(source).exists() else source
