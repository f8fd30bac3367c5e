"""Which files a pattern names, and whether they are as they were when the run was made."""

from glob import escape, has_magic
from pathlib import Path
from typing import Any

from curate.errors import SourceError
from curate.sources.layouts.preparation import is_archive
from curate.sources.layouts.samples import is_folder_pair
from curate.sources.manifest import Manifest
from curate.storage.files import Fingerprint, filesystem_of, fingerprint, is_local, local_path, retrying
from schemas.remote import is_absent, why


def named_files(patterns: list[str]) -> list[str]:
    """Each file that a path, folder, glob or URL names, once, sorted. Raises: SourceError when there is none."""
    files = sorted({file for pattern in patterns for file in expanded(pattern)})
    if not files:
        raise SourceError(f"no file matches {', '.join(patterns)}; correct --source or the manifest's files")
    return files


def check_unchanged(file: str, recorded: int | Fingerprint, moved: dict[str, str] | None = None) -> str | None:
    """What else changed of a file since it was embedded, in words, or None.

    recorded: of run.toml; a number is the size alone, as earlier runs have it.
    Raises: SourceError when the file is gone, or of another size.
    """
    before: Fingerprint = recorded if isinstance(recorded, dict) else {"size": recorded}
    if moved and file in moved:
        file, before = moved[file], {"size": before["size"]}  # a copy has a time of its own
    now = state_of(file)
    words = changed_words(file, before, now)
    if words is not None and before.get("size") != now.get("size"):
        raise SourceError(f"{words}; embed it again")
    return words


def changed_words(file: str, before: Fingerprint, now: Fingerprint) -> str | None:
    """Which of `before`'s values is another now, as a sentence that names the file; None when none is."""
    for key, then in before.items():
        if then != now.get(key):
            shown = [f"{one:,} bytes" if key == "size" else str(one) for one in (then, now.get(key, "unknown"))]
            what = "" if key == "size" else f"{key} "
            return f"{file} changed since it was embedded: {what}{shown[0]} then, {shown[1]} now"
    return None


def from_manifest(pattern: str, manifest: Manifest) -> str:
    """A relative path in a manifest starts from the manifest's own folder."""
    return pattern if "://" in pattern else str(manifest.path.resolve().parent / pattern)


def picture_roots(root: str) -> list[str]:
    """A folder or URL below which paths start, or the archives that a pattern names. Raises: SourceError."""
    if is_local(root) and Path(local_path(root)).is_dir():
        return [str(Path(local_path(root)).absolute())]
    files = sorted(expanded(root, inside=False))
    if is_local(root) and not (files and all(map(is_archive, files)) and Path(files[0]).exists()):
        raise SourceError(f"{root} is no folder, zip or tar of pictures; correct it, or unpack it and name its folder")
    return files or [root]


def expanded(pattern: str, *, inside: bool = True) -> list[str]:
    """The files that a path, glob or URL names; a folder of two sides is one. Raises: SourceError.

    inside: of another folder the Parquet files in it.
    """
    try:
        filesystem, path = filesystem_of(pattern)
        names = retrying(lambda: _names(filesystem, path, inside), pattern)
    except ValueError as error:
        raise SourceError(f"cannot list {pattern}: {error}") from error
    except Exception as error:  # every remote file system raises its own errors
        raise SourceError(f"cannot list {pattern}: {why(error)}") from error
    return [filesystem.unstrip_protocol(name) if "://" in pattern else name for name in names]


def _names(filesystem: Any, path: str, inside: bool) -> list[str]:
    """What bears this very name, whatever signs are in it; else what matches it as a pattern."""
    http, folder = "http" in filesystem.protocol, path.rpartition("/")[0]
    costly = http or "hf" in filesystem.protocol  # the hub counts what it is asked, and `exists` hides its refusals
    if not has_magic(path.replace("?", "") if http else path) or (not costly and filesystem.exists(path)):
        # To ask an HTTP server whether it is a folder is to read the file.
        if http or not filesystem.isdir(path) or is_folder_pair(path):
            return [path]
        listed = filesystem.ls(path, detail=True) if inside else []
        return [one["name"] for one in listed if one["name"].endswith(".parquet")]
    if has_magic(folder) and not costly and filesystem.exists(folder):
        path = f"{escape(folder)}{path.removeprefix(folder)}"
    return [name for name, one in filesystem.glob(path, detail=True).items() if one["type"] != "directory"]


def state_of(file: str) -> Fingerprint:
    """What tells a file, or a folder with all in it, from another state of it. Raises: SourceError."""
    if is_local(file) and Path(file).is_dir():
        inside = [path.stat().st_size for path in Path(file).rglob("*") if path.is_file()]
        return {"size": sum(inside), "files": len(inside)}
    try:
        return fingerprint(file)
    except Exception as error:  # every remote file system raises its own errors
        if isinstance(error, FileNotFoundError) and is_absent(error):
            raise SourceError(f"{file} is not there; correct --source, or put it back") from error
        raise SourceError(f"{file} cannot be read: {why(error)}") from error
