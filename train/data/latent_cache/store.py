"""Tensors by name in a folder that many runs share: files that are written once, whole, and never changed.

<folder>/store.json                what decides the values; another key is another folder
         <group>-<id>.safetensors  some tensors, each under its name

So a reader needs no lock, a killed writer loses the file that it was at, and any number of processes may write.
"""

import hashlib
import json
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from train.errors import CacheError, StorageError
from train.files import whole_file, write_json
from train.terminal import Reporter

FILE_BYTES = 64 << 20  # about what a file holds, and what a killed process has to do again at most
INDEX = "store.json"
Key = dict[str, Any]


class RowStore:
    """The tensors of a folder that a run has use for. They are mapped, and read when they are asked for."""

    def __init__(self, root: Path, kind: str, key: Key) -> None:
        self.key = key
        self.folder = root / f"{kind}-{hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]}"
        self._files: dict[str, Any] = {}  # by the name of a tensor

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def row(self, name: str) -> Tensor:
        """The tensor of that name, on the CPU. Raises: KeyError when it has not been found."""
        row: Tensor = self._files[name].get_tensor(name)
        return row

    def files(self, groups: Iterable[str]) -> list[str]:
        """The names of the files there are of some groups."""
        return sorted(path.name for group in groups for path in self.folder.glob(f"{group}-*.safetensors"))

    def find(self, files: Iterable[str], wanted: set[str]) -> None:
        """Open files, and keep where the `wanted` tensors lie. Raises: CacheError."""
        for path in (self.folder / file for file in files):
            try:
                opened = safe_open(path, framework="pt")
                self._files |= dict.fromkeys(wanted.intersection(opened.keys()), opened)
            except FileNotFoundError as error:
                raise CacheError(
                    f"{path} is gone; of several machines, all must see the folder of the cache."
                ) from error
            except (OSError, SafetensorError) as error:
                raise CacheError(f"{path} cannot be read ({error}); remove it, and its rows are made again.") from error

    def begin(self) -> None:
        """Make ready for `writer`, while nobody writes. Raises: StorageError."""
        for left in self.folder.glob(".*.partial"):
            left.unlink(missing_ok=True)
        if not (self.folder / INDEX).is_file():
            write_json(self.folder / INDEX, self.key)

    @contextmanager
    def writer(self, group: str) -> Iterator["Writer"]:
        """Writes new files of a group; what was given to it is kept when the block fails, too."""
        writer = Writer(self.folder, group)
        try:
            yield writer
        finally:
            writer.flush()


class Writer:
    """Gathers tensors until they fill a file."""

    def __init__(self, folder: Path, group: str) -> None:
        self.files: list[str] = []
        self._folder, self._group = folder, group
        self._held: dict[str, NDArray[Any]] = {}

    def add(self, tensors: dict[str, Tensor]) -> None:
        """Raises: StorageError."""
        self._held |= {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in tensors.items()}
        if sum(array.nbytes for array in self._held.values()) >= FILE_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what is held. Raises: StorageError."""
        if self._held:
            path = self._folder / f"{self._group}-{uuid.uuid4().hex[:16]}.safetensors"
            with whole_file(path) as temporary:
                save_file(self._held, temporary)
            self.files.append(path.name)
            self._held = {}


def check_room(folder: Path, bytes_needed: int) -> None:
    """Raises: StorageError where the disk has no room."""
    if (free := shutil.disk_usage(folder).free) < bytes_needed:
        raise StorageError(
            f"{folder} needs {bytes_needed:,} bytes more for the latent cache, and its disk has {free:,}; make room,"
            " name a folder of another disk by --cache, or add --no-cache."
        )


@contextmanager
def locked(folder: Path, reporter: Reporter) -> Iterator[None]:
    """Of several runs on one folder, one fills it and the others wait; the lock goes with the process."""
    # The file stays: a run that waits has it open. Nor is a file's mere presence taken for a lock where flock is not.
    lock = FileLock(folder / ".lock", preserve_lock_file=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            held = lock.acquire(blocking=False)
        except Timeout:
            reporter.say(f"Another run is filling {folder}: waiting for it.")
            held = lock.acquire()
    except OSError as error:
        raise CacheError(
            f"{folder} cannot hold the latent cache ({error.strerror}); name a folder by --cache, or add --no-cache."
        ) from error
    with held:
        yield
