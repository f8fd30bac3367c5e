"""Weights by path, URL or hub: fetched once and checked, all of them before the first is loaded."""

import hashlib
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from curate.errors import ManifestError, ModelError
from curate.models.model_set import ModelSet, ScorerSpec, TowerSpec
from curate.storage.files import file_sha256, retrying
from curate.storage.tables import temporary_path
from curate.terminal.progress import progress, say
from schemas.remote import is_absent, is_transient, why

T = TypeVar("T")
MIB = 2**20
MODEL_FILES = ("config.json", "model.safetensors")
OPEN_CLIP_NAMES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
PROCESSOR_FILES = ("*.json", "*.txt")
# Of each family and head: the keys that name files, the stated sha256 being that of the first; and those that name
# repositories, with the key of their revision and the files that are needed of them.
FILES = {
    **{"open_clip": ("weights",), "hpsv2": ("checkpoint",), "aesthetic": ("weights",), "nsfw": ("weights",)},
    **{"words": ("words",), "image_reward": ("checkpoint", "med_config")},
}
REPOSITORIES = {
    "transformers_clip": (
        ("model", "revision", MODEL_FILES),
        ("processor", "processor_revision", PROCESSOR_FILES),
    ),
    "image_reward": (("tokenizer", "tokenizer_revision", PROCESSOR_FILES),),
}


def fetched(model_set: ModelSet, scorers: list[ScorerSpec]) -> ModelSet:
    """The set with every file that the scorers need on this machine, checked, and every revision a commit.

    Raises: ManifestError when one is absent or cannot be downloaded; ModelError when its sha256 is another.
    """
    folder = model_set.folder
    towers = {spec.name: fetched_tower(spec, folder) for spec in model_set.towers_of(scorers)}
    chosen = {spec.name: replace(spec, options=_fetched(spec.head, spec.options, folder)) for spec in scorers}
    return replace(model_set, towers=model_set.towers | towers, scorers=model_set.scorers | chosen)


def fetched_tower(spec: TowerSpec, folder: Path) -> TowerSpec:
    """The same for one tower."""
    return replace(spec, options=_fetched(spec.family, spec.options, folder))


def _fetched(kind: str, options: dict[str, Any], folder: Path) -> dict[str, Any]:
    found = dict(options)
    if kind == "open_clip" and "folder" not in options and "weights" not in options:
        found["weights"] = _first_there(_tag_locations(options["model"], options["pretrained"]), folder)
    stated = options.get("sha256")
    for key in FILES.get(kind, ()):
        if key in found:
            path = weights_file(found[key], folder, stated)
            checked_sha256(path, stated)
            found[key], stated = _with_commit(found[key], path), None
    for key, revision_key, files in REPOSITORIES.get(kind, ()):
        if key in found:
            path, commit = repository(found[key], folder, found.get(revision_key), files)
            if files is MODEL_FILES and (path / files[-1]).is_file():
                checked_sha256(path / files[-1], stated)
            found |= {revision_key: commit} if commit else {}
    return found


def weights_file(location: str, folder: Path, sha256: str | None = None) -> Path:
    """A local path for `location`: a path relative to `folder`, or a URL, downloaded once to a cache.

    `hf://owner/name[@revision]/file` goes through the Hugging Face hub's cache, any other URL to ~/.cache/pairsieve;
    what comes with another sha256 than the stated one is not kept.
    Raises: ManifestError when the file is absent or cannot be downloaded; ModelError when it is another.
    """
    if location.startswith("hf://"):
        return _downloading(location, lambda: _from_hub(location))
    if "://" in location:
        return _downloading(location, lambda: _from_url(location, sha256))
    path = (folder / location).resolve()
    if not path.is_file():
        raise ManifestError(f"no weights at {path}; correct the path in the set of models")
    return path


def repository(
    name: str, folder: Path, revision: str | None, files: tuple[str, ...] = PROCESSOR_FILES
) -> tuple[Path, str | None]:
    """A folder as it is, and None; or a hub repository's files in the hub's cache, and its commit.

    files: names or patterns. Raises: ManifestError when it cannot be downloaded.
    """
    location = folder_or_id(name, folder)
    if location.startswith("/"):
        return Path(location), None

    def download() -> Path:
        from huggingface_hub import snapshot_download

        patterns = list(files)
        return Path(snapshot_download(location, revision=revision, allow_patterns=patterns, tqdm_class=_bar(location)))

    path = _downloading(f"hf://{location}", download)
    return path, path.name  # snapshots/<commit>


def checked_sha256(path: Path, stated: str | None) -> str:
    """The file's sha256. Raises ModelError when it is not the stated one, nor that of the hub's cache."""
    found = _sha256_of(path, path.stat().st_mtime_ns)
    if stated is not None and found != stated:
        raise ModelError(f"{path}: sha256 is {found}, the set of models states {stated}")
    blob = path.resolve()  # the hub's cache calls a large file by its sha256
    if blob.parent.name == "blobs" and re.fullmatch("[0-9a-f]{64}", blob.name) and found != blob.name:
        raise ModelError(f"{blob} is damaged: its sha256 is {found}; delete it and run again")
    return found


@cache
def _sha256_of(path: Path, changed_ns: int) -> str:
    """Once for each state of a file: the larger ones take seconds."""
    return file_sha256(path)


def folder_or_id(name: str, folder: Path) -> str:
    """Names that start with a dot or a slash are folders, relative to `folder`; all others are hub ids."""
    return str((folder / name).resolve()) if name.startswith((".", "/")) else name


def _tag_locations(model: str, tag: str) -> list[str]:
    """Where open_clip says that a tag's weights lie, the best first. Raises ModelError for an unknown tag."""
    from open_clip.pretrained import get_pretrained_cfg

    config = get_pretrained_cfg(model, tag)
    if not config:
        raise ModelError(f"open_clip knows no weights '{tag}' for '{model}'")
    repository, _, name = str(config.get("hf_hub") or "").rpartition("/")
    names = [name] if name else OPEN_CLIP_NAMES
    return [f"hf://{repository}/{name}" for name in names] if repository else [config["url"]]


def _first_there(locations: list[str], folder: Path) -> str:
    """The first that exists. Raises: ManifestError."""
    for location in locations[:-1]:
        try:
            weights_file(location, folder)
            return location
        except ManifestError as error:
            if error.__cause__ is None or not is_absent(error.__cause__):
                raise
    return locations[-1]


def _with_commit(location: str, path: Path) -> str:
    """A location on the hub with the commit that its file lies under in the hub's cache; any other as it is."""
    if not location.startswith("hf://"):
        return location
    owner, repository, filename = location.removeprefix("hf://").split("/", 2)
    commit = path.parts[-1 - len(Path(filename).parts)]
    return f"hf://{owner}/{repository.partition('@')[0]}@{commit}/{filename}"


def _downloading(what: str, download: Callable[[], T]) -> T:
    """Failures that pass are tried again. Raises: ManifestError that says why it cannot be had."""
    try:
        return retrying(download, what)
    except ModelError:
        raise
    except Exception as error:  # each hub and file system raises its own
        advice = "run again to go on, or " if is_transient(error) else ""
        raise ManifestError(
            f"cannot download {what}: {why(error)}; {advice}download it elsewhere and give its local path in a TOML "
            "file to --models"
        ) from error


def _from_hub(location: str) -> Path:
    from huggingface_hub import hf_hub_download

    owner, repository, filename = location.removeprefix("hf://").split("/", 2)
    name, _, revision = repository.partition("@")
    return Path(hf_hub_download(f"{owner}/{name}", filename, revision=revision or None, tqdm_class=_bar(filename)))


def _from_url(url: str, sha256: str | None) -> Path:
    """Under its name once it is whole, so that several processes may fetch one file; it stays for good."""
    import fsspec

    name = url.split("::")[0].rpartition("/")[2]
    path = Path.home() / ".cache" / "pairsieve" / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{name}"
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    try:
        with fsspec.open(url, "rb") as stream, temporary.open("wb") as out:
            size = getattr(stream, "size", None) or 0
            with progress(f"{name}, MiB", max(size // MIB, 1)) as advance:
                while data := stream.read(MIB):
                    out.write(data)
                    advance(1)
        if size and temporary.stat().st_size != size:
            raise ConnectionError(f"{temporary.stat().st_size:,} bytes arrived of {size:,}")
        if sha256 is not None and (found := file_sha256(temporary)) != sha256:
            raise ModelError(f"{url}: what came has the sha256 {found}, the set of models states {sha256}")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


class _Lines:
    """A stream for tqdm that says each state as a line of its own."""

    def write(self, text: str) -> None:
        if line := text.strip():
            say(line)

    def flush(self) -> None:
        """Nothing is held back."""


def _bar(what: str) -> type[Any]:
    """The hub's progress of bytes: a bar on a terminal, else a line every ten seconds; nothing for what is cached."""
    from huggingface_hub.utils import tqdm

    class Bar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            bytes_of_files = kwargs.get("unit") == "B" and not str(kwargs.get("name")).endswith(".transfer")
            kwargs |= {"disable": not bytes_of_files, "delay": 1.0, "desc": what}
            if not sys.stderr.isatty():
                kwargs |= {"file": _Lines(), "mininterval": 10.0, "maxinterval": 10.0}
            super().__init__(*args, **kwargs)

        def set_description(self, desc: str | None = None, refresh: bool | None = True) -> None:
            """It stays what it was."""

    return Bar
