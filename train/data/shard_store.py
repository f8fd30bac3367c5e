"""Shards at a URL, brought to a folder of this machine: what lies there stays, the rest is fetched and checked.

<store>/shards-<digest>/  the export as it lies at its URL. The digest is of its shards.json, so an export that is
                          replaced there has another folder here. shards.json comes last: with it the folder is whole.

Of several processes one fetches, the others wait for its lock and find everything.
"""

import errno
import hashlib
import json
import shutil
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
from filelock import FileLock, Timeout

from schemas.remote import is_absent, is_transient, tried_again, why
from schemas.shards import SHARD_INDEX, SPLIT_INDEX
from train.data.pairs import check_file, parsed_index
from train.data.prefetch import prefetched
from train.errors import ShardError, StorageError
from train.files import storage_errors, whole_file
from train.terminal import Reporter, note

RETRY_WAITS_SEC: tuple[float, ...] = (0.5, 1, 2, 4, 8, 16)
AT_ONCE = 4  # tars; one connection to a store seldom fills a network
_DISK_ERRNO = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
Entry = dict[str, Any]  # of a tar, in shards.json


def fetched(url: str, store: Path, *, verify: bool) -> Path:
    """The folder under `store` that holds the export at `url`, once all of it is there.

    verify: look at the sha256 of the tars that were there before, too; what was damaged is fetched again.
    Raises: ShardError naming the URL; StorageError.
    """
    export = _Export(url.rstrip("/"), Reporter(main=True))
    data = export.index()
    entries: list[Entry] = parsed_index(data, f"{export.url}/{SHARD_INDEX}")["shards"]
    folder = store / f"shards-{hashlib.sha256(data).hexdigest()[:16]}"
    lock = FileLock(folder / ".lock", preserve_lock_file=True)  # it stays: a process that waits has it open
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            held = lock.acquire(blocking=False)
        except Timeout:
            note(f"Another process fetches {export.url} to {folder}: waiting for it.")
            held = lock.acquire()
    with held:
        missing = [entry for entry in entries if not _is_there(folder / entry["file"], entry, verify=verify)]
        if missing:
            export.fetch(missing, folder)
        if not (folder / SHARD_INDEX).is_file():
            with whole_file(folder / SHARD_INDEX) as temporary:
                temporary.write_bytes(data)
    return folder


def _is_there(path: Path, entry: Entry, *, verify: bool) -> bool:
    try:
        check_file(path, entry, verify=verify)
    except ShardError:
        return False
    return True


@dataclass
class _Export:
    url: str
    reporter: Reporter

    def index(self) -> bytes:
        """Of shards.json. Raises: ShardError."""
        try:
            return self._read(SHARD_INDEX)
        except Exception as error:
            if is_absent(error) and (splits := self._splits()):
                raise ShardError(
                    f"{self.url} has no {SHARD_INDEX}: it holds splits; give the URL of one of them, such as"
                    f" {self.url}/{splits[0]}."
                ) from error
            raise self._failure(SHARD_INDEX, error) from error

    def _read(self, name: str) -> bytes:
        def read() -> bytes:
            filesystem, path = fsspec.core.url_to_fs(f"{self.url}/{name}")
            return bytes(filesystem.cat_file(path))

        return tried_again(read, f"{self.url}/{name}", RETRY_WAITS_SEC, self.reporter.say)

    def _splits(self) -> list[str]:
        with suppress(Exception):  # this only makes a message better
            return [split["name"] for split in json.loads(self._read(SPLIT_INDEX))["splits"]]
        return []

    def fetch(self, entries: list[Entry], folder: Path) -> None:
        """Tars, each whole under its name or not there at all. Raises: ShardError, StorageError."""
        needed, free = sum(entry["bytes"] for entry in entries), shutil.disk_usage(folder).free
        if free < needed:
            raise StorageError(
                f"{folder} needs {needed:,} bytes for the shards of {self.url}, and its disk has {free:,}; make room,"
                " or name a folder of another disk by --shard-store."
            )
        self.reporter.say(f"Fetching {len(entries)} tars, {needed:,} bytes, of {self.url} to {folder}.")
        with (
            self.reporter,
            closing(prefetched(lambda one: self._fetch(one, folder), entries, depth=AT_ONCE, threads=AT_ONCE)) as ahead,
        ):
            for done, _ in enumerate(ahead, start=1):
                self.reporter.advance("fetch tars", done, len(entries))

    def _fetch(self, entry: Entry, folder: Path) -> None:
        url = f"{self.url}/{entry['file']}"
        with whole_file(folder / entry["file"]) as temporary:
            try:
                tried_again(lambda: _download(url, temporary, entry), url, RETRY_WAITS_SEC, self.reporter.say)
            except Exception as error:  # each file system raises its own
                if isinstance(error, ShardError) or getattr(error, "errno", None) in _DISK_ERRNO:
                    raise
                raise self._failure(entry["file"], error) from error

    def _failure(self, name: str, error: Exception) -> ShardError:
        advice = "run again to go on" if is_transient(error) else f"give the URL of a folder with {SHARD_INDEX}"
        if name != SHARD_INDEX and not is_transient(error):
            advice = f"{SHARD_INDEX} lists it: export anew, or copy the tars there again"
        return ShardError(f"{self.url}/{name} cannot be fetched: {why(error)}; {advice}.")


def _download(url: str, path: Path, entry: Entry) -> None:
    filesystem, remote = fsspec.core.url_to_fs(url)
    filesystem.get_file(remote, str(path))
    size_bytes = path.stat().st_size
    if size_bytes < entry["bytes"]:
        raise ConnectionError(f"{size_bytes:,} bytes arrived of {entry['bytes']:,}")
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 != entry["sha256"]:
        raise ShardError(
            f"{url} is not the file that {SHARD_INDEX} beside it describes: its sha256 differs; export anew, or copy"
            " the tars there again."
        )
