"""Weights by path, URL or hub: a local file, downloaded once; its sha256 compared with the stated one."""

from pathlib import Path

from curate.errors import ManifestError, ModelError
from curate.storage.files import file_sha256


def weights_file(location: str, folder: Path) -> Path:
    """A local path for `location`: a path relative to `folder`, or a URL, downloaded once to a cache.

    `hf://owner/name[@revision]/file` goes through the Hugging Face hub's cache.
    Raises: ManifestError when the file is absent.
    """
    path = _downloaded(location) if "://" in location else (folder / location).resolve()
    if not path.is_file():
        raise ManifestError(f"no weights at {path}; correct the path in the set of models")
    return path


def checked_sha256(path: Path, stated: str | None) -> str:
    """The file's sha256. Raises ModelError when it is not the stated one."""
    found = file_sha256(path)
    if stated is not None and found != stated:
        raise ModelError(f"{path}: sha256 is {found}, the set of models states {stated}")
    return found


def folder_or_id(name: str, folder: Path) -> str:
    """Names that start with a dot or a slash are folders, relative to `folder`; all others are hub ids."""
    return str((folder / name).resolve()) if name.startswith((".", "/")) else name


def _downloaded(url: str) -> Path:
    import fsspec
    from huggingface_hub import hf_hub_download

    try:
        if not url.startswith("hf://"):
            cache = Path.home() / ".cache" / "pairsieve"
            return Path(fsspec.open_local(f"filecache::{url}", filecache={"cache_storage": str(cache)}))
        owner, repository, filename = url.removeprefix("hf://").split("/", 2)
        name, _, revision = repository.partition("@")
        return Path(hf_hub_download(f"{owner}/{name}", filename, revision=revision or None))
    except Exception as error:  # each hub and file system raises its own
        raise ManifestError(
            f"cannot download {url} ({type(error).__name__}); download it where there is a network and give its "
            "local path in a TOML file to --models"
        ) from error
