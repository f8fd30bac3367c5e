"""Weights by path, URL or hub: a local file, downloaded once, its sha256 compared with the stated one."""

from pathlib import Path

from curate.errors import ManifestError
from curate.storage.files import file_sha256


def weights_file(location: str, folder: Path, sha256: str | None = None) -> Path:
    """A local path for `location`: a path relative to `folder`, or a URL, downloaded once to a cache.

    `hf://owner/name[@revision]/file` goes through the Hugging Face hub's cache.
    Raises: ManifestError when the file is absent or its sha256 is not the stated one.
    """
    path = _downloaded(location) if "://" in location else (folder / location).resolve()
    if not path.is_file():
        raise ManifestError(f"no weights at {path}; correct the path in the set of models")
    if sha256 is not None and file_sha256(path) != sha256:
        raise ManifestError(f"{path}: sha256 is {file_sha256(path)}, the set of models states {sha256}")
    return path


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
