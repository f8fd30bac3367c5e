"""Where shards go: a folder, or a URL that finished shards are uploaded to; whole files under final names only."""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import lock_descriptor

from curate.errors import RunError
from curate.storage.folder import LocalFolder
from curate.storage.tables import writing
from curate.storage.url_folder import UrlFolder, folder_at


class Destination:
    """A folder of shards by path or URL. Names are relative to it, with / between folders.

    staging: folder of this machine where tars are made; for a path the output itself, so that finishing is a rename.
    """

    def __init__(self, output: str, staging: Path) -> None:
        self.output = output.rstrip("/")
        self.folder = folder_at(os.path.expanduser(self.output))  # noqa: PTH111 -- a URL stays as it is
        self.remote = self.folder.remote
        digest = hashlib.sha256(self.output.encode()).hexdigest()[:16]
        self.staging = self.folder.path if isinstance(self.folder, LocalFolder) else staging / digest

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
        """Remove the staging folder, which is empty now, where it is not the output itself."""
        if self.remote:
            shutil.rmtree(self.staging, ignore_errors=True)
