"""Where an export goes: a folder, a URL that finished files are uploaded to, or a data set of the Hugging Face hub.

Only whole files have final names. What goes to the hub is made in a folder of this machine first: each file for itself
would be a commit there.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import lock_descriptor

from curate.errors import RunError, UploadError, UsageError
from curate.storage.folder import LocalFolder
from curate.storage.tables import writing
from curate.storage.url_folder import UrlFolder, folder_at
from curate.terminal.progress import say
from schemas.remote import why

HUB = "hf://"
# What our exports call their files; a later export with fewer of them removes the others from the hub.
OURS = ("pairs-*.tar", "*/pairs-*.tar", "data/train-*.parquet", "*/data/train-*.parquet", "*shards.json", "splits.json")


class Destination:
    """The output by path or URL. Names are relative to it, with / between folders.

    staging: folder of this machine where files are made; for a path the output itself, so that finishing is a rename.
    repository: of the hub, `owner/name`; None: it goes elsewhere.
    """

    def __init__(self, output: str, staging: Path) -> None:
        self.output = output.rstrip("/")
        self.repository = hub_repository(self.output)
        made_here = staging / hashlib.sha256(self.output.encode()).hexdigest()[:16]
        place = str(made_here) if self.repository else os.path.expanduser(self.output)  # noqa: PTH111 -- or a URL
        self.folder = folder_at(place)
        self.remote = self.folder.remote
        self.staging = self.folder.path if isinstance(self.folder, LocalFolder) else made_here

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep a second export out of the same staging folder. Raises: RunError, WriteError."""
        with writing(self.staging):
            self.staging.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.staging, os.O_RDONLY)
        try:
            if not lock_descriptor(descriptor, blocking=False):
                raise RunError(f"another process exports into {self.output}; wait for it, or use another --output")
            yield
        finally:
            os.close(descriptor)

    def staged(self, name: str) -> Path:
        """The temporary name under which a file is made; the same each time."""
        folder, _, file = name.rpartition("/")
        return self.staging / folder / f".{file}.tmp"

    def publish(self, name: str) -> None:
        """Give a staged file, whole on the disk, its final name, or upload it. Raises: WriteError, UploadError."""
        staged = self.staged(name)
        if isinstance(self.folder, UrlFolder):
            self.folder.put(staged, name)
            staged.unlink()
        else:
            with writing(self.staging / name):
                staged.replace(self.staging / name)

    def read_text(self, name: str) -> str | None:
        """A small text file, or None when it is not there. Raises: RunError."""
        try:
            return self.folder.read(name).decode("utf-8")
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise RunError(f"{self.output}/{name} cannot be read: {type(error).__name__}: {error}") from error

    def write_text(self, name: str, text: str) -> None:
        """A small text file, whole. Raises: WriteError."""
        self.folder.write(name, text.encode("utf-8"))

    def remove(self, name: str) -> None:
        """Remove a file that may be gone already, and the folder that it leaves empty."""
        self.folder.remove(name)
        if not self.remote and "/" in name:
            with suppress(OSError):  # it is not empty, or gone
                (self.staging / name).parent.rmdir()

    def holds(self, name: str, entry: dict[str, Any]) -> bool:
        """Whether a shard stands as its entry says: by size and sha256, and at a URL by size alone."""
        return self.folder.size(name) == entry["bytes"] and (self.remote or self.folder.sha256(name) == entry["sha256"])

    def clear(self) -> None:
        """Remove what an attempt at something else left in the staging folder."""
        for path in self.staging.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def finish(self, mark: str) -> None:
        """Bring what was made to the hub, and remove the staging folder, where it is not the output itself.

        mark: of a card that is ours; another README.md stays as it is. Raises: UploadError.
        """
        if self.repository is not None:
            _push(self.staging, self.repository, self.output, mark)
        if self.remote or self.repository is not None:
            shutil.rmtree(self.staging, ignore_errors=True)


def hub_repository(output: str) -> str | None:
    """`owner/name` of hf://datasets/owner/name; None of what is not at the hub. Raises: UsageError."""
    if not output.startswith(HUB):
        return None
    found = re.fullmatch(r"hf://datasets/([\w.-]+/[\w.-]+)", output)
    if found is None:
        raise UsageError(f"--output {output}: write hf://datasets/OWNER/NAME")
    return found[1]


def _push(folder: Path, repository: str, output: str, mark: str) -> None:
    """Upload a folder as a data set. A new one is private: whoever may pass the pictures on makes it public.

    Run again after a failure: what the hub has already is not sent again (huggingface_hub's `upload_folder`).
    """
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    api, ignored = HfApi(library_name="pairsieve"), [".*", "*/.*"]
    try:
        api.create_repo(repository, repo_type="dataset", private=True, exist_ok=True)
        try:
            card = Path(hf_hub_download(repository, "README.md", repo_type="dataset")).read_text("utf-8")
        except EntryNotFoundError:
            card = mark
        if mark not in card:
            say(f"{output}/README.md is not ours and stays as it is; no card is written")
            ignored.append("README.md")
        api.upload_folder(
            repo_id=repository,
            repo_type="dataset",
            folder_path=folder,
            commit_message="Preference pairs chosen by pairsieve",
            delete_patterns=list(OURS),
            ignore_patterns=ignored,
        )
    except Exception as error:  # the client raises its own errors, of its Rust part, too
        raise UploadError(
            f"{output} cannot be written: {why(error)}; look at the name and the token, then run again"
        ) from error
