"""Where shards go: a folder, or a URL that finished shards are uploaded to; whole files under final names only."""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import fsspec

from curate.errors import RunError, UploadError
from curate.storage import is_local, retrying
from curate.tables import write_text, writing


class Destination:
    """A folder of shards by path or URL. Names are relative to it, with / between folders.

    staging: folder of this machine where tars are made; for a path the output itself, so that finishing is a rename.
    """

    def __init__(self, output: str, staging: Path) -> None:
        self.output, self.remote = output.rstrip("/"), not is_local(output)
        self.filesystem, self.root = fsspec.core.url_to_fs(self.output)
        digest = hashlib.sha256(self.output.encode()).hexdigest()[:16]
        self.staging = staging / digest if self.remote else Path(self.root)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep a second export out of the same staging folder. Raises: RunError, WriteError."""
        with writing(self.staging):
            self.staging.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.staging, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(
                f"another process exports into {self.output}; wait for it, or use another --output"
            ) from error
        else:
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
        if not self.remote:
            with writing(self.staging / name):
                staged.replace(self.staging / name)
            return
        url = f"{self.root}/{name}"
        with self._uploading(name):
            retrying(lambda: self.filesystem.put_file(str(staged), url), f"{self.output}/{name}")
            self.filesystem.invalidate_cache()
            if self.filesystem.size(url) != staged.stat().st_size:
                raise OSError(f"{self.filesystem.size(url)} bytes arrived of {staged.stat().st_size}")
        staged.unlink()

    def read_text(self, name: str) -> str | None:
        """A small text file, or None when it is not there."""
        url = f"{self.root}/{name}"

        def read() -> str:
            return bytes(self.filesystem.cat_file(url)).decode("utf-8")

        try:
            return retrying(read, f"{self.output}/{name}")
        except FileNotFoundError:
            return None
        except Exception as error:  # every remote file system raises its own errors
            raise RunError(f"{self.output}/{name} cannot be read: {type(error).__name__}: {error}") from error

    def write_text(self, name: str, text: str) -> None:
        """A small text file, whole. Raises: WriteError."""
        if not self.remote:
            write_text(text, self.staging / name)
            return
        with self._uploading(name):
            data = text.encode("utf-8")
            retrying(lambda: self.filesystem.pipe_file(f"{self.root}/{name}", data), f"{self.output}/{name}")

    def remove(self, name: str) -> None:
        """Remove a file that may be gone already, and the folder that it leaves empty."""
        if self.remote:
            with self._uploading(name), suppress(FileNotFoundError):
                retrying(lambda: self.filesystem.rm_file(f"{self.root}/{name}"), f"{self.output}/{name}")
            return
        path = self.staging / name
        path.unlink(missing_ok=True)
        if "/" in name:
            with suppress(OSError):  # it is not empty, or gone
                path.parent.rmdir()

    def holds(self, name: str, entry: dict[str, Any]) -> bool:
        """Whether a shard stands as its entry says: by size and sha256, and at a URL by size alone."""
        if self.remote:
            with self._uploading(name), suppress(FileNotFoundError):
                size = retrying(lambda: self.filesystem.size(f"{self.root}/{name}"), f"{self.output}/{name}")
                return bool(size == entry["bytes"])
            return False
        path = self.staging / name
        if not path.is_file() or path.stat().st_size != entry["bytes"]:
            return False
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == entry["sha256"]

    def clear(self) -> None:
        """Remove the staging folder, which is empty now, where it is not the output itself."""
        if self.remote:
            shutil.rmtree(self.staging, ignore_errors=True)

    @contextmanager
    def _uploading(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # every remote file system raises its own errors
            raise UploadError(
                f"cannot write {self.output}/{name}: {type(error).__name__}: {error}; run again to go on"
            ) from error
