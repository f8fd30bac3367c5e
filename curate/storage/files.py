"""Files by path or URL: failures that pass are tried again, and a changed file is known by its fingerprint."""

import hashlib
import os
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem

from curate.terminal.progress import say
from schemas.remote import tried_again

T = TypeVar("T")
Fingerprint = dict[str, int | str]

# Half a minute in all: longer than a throttled or restarting server, short of a night's outage.
RETRY_WAITS_SEC: tuple[float, ...] = (0.5, 1, 2, 4, 8, 16)
# The hub counts requests (500 to 1,000 in five minutes), and a listing of a folder tells all of its files.
HUB_LISTING_SEC = 600.0


def retrying(work: Callable[[], T], what: str) -> T:
    """`work()`, again after a growing wait while it fails by what passes: outages, timeouts, 5xx, throttling.

    Each failure is said on stderr, naming `what`. Raises: whatever `work` raises last, or at once when it is permanent.
    """
    return tried_again(work, what, RETRY_WAITS_SEC, say)


def is_local(file: str) -> bool:
    """Whether a path or URL names a file of this machine."""
    return "://" not in file or file.startswith("file://")


def local_path(file: str) -> str:
    """The path that a file:// URL names; a path as it is."""
    return str(LocalFileSystem._strip_protocol(file)) if "://" in file else file


def fingerprint(file: str) -> Fingerprint:
    """What tells one state of a file from another: `size`, and its `etag`, else when it was `modified`.

    Raises: what the file system raises; transient failures are tried again.
    """
    filesystem, path = filesystem_of(file)
    if isinstance(filesystem, LocalFileSystem):
        state = os.stat(path)  # noqa: PTH116 -- of the file that a link leads to
        seconds, nanoseconds = divmod(state.st_mtime_ns, 1_000_000_000)
        modified = datetime.fromtimestamp(seconds, UTC)
        return {"size": state.st_size, "modified": f"{modified:%Y-%m-%dT%H:%M:%S}.{nanoseconds:09d}"}
    if file.startswith("hf://"):
        return fingerprint_of(retrying(lambda: _hub_info(filesystem, path), file))
    filesystem.invalidate_cache(path)
    return fingerprint_of(retrying(lambda: filesystem.info(path), file))


def filesystem_of(file: str) -> tuple[Any, str]:
    """fsspec's file system of a path or URL, and its path in there.

    Of the Hugging Face hub there is one for all threads, where fsspec makes one for each, with listings of its own.
    Raises: ImportError for a missing package; ValueError for an unknown protocol.
    """
    if "://" not in file:  # :: is fsspec's sign for one file system within another, and here a part of a name
        return LocalFileSystem(), LocalFileSystem._strip_protocol(file)
    return (_hub(), file.removeprefix("hf://")) if file.startswith("hf://") else fsspec.core.url_to_fs(file)


@cache
def _hub() -> Any:
    return fsspec.filesystem("hf", skip_instance_cache=True)


_listed_sec: dict[str, float] = {}
_listing = threading.Lock()


def _hub_info(filesystem: Any, path: str) -> dict[str, Any]:
    """What the hub says of a file, by a listing of its folder that is at most HUB_LISTING_SEC old."""
    folder = path.rpartition("/")[0]
    with _listing:
        now = time.monotonic()
        if now - _listed_sec.setdefault(folder, now) > HUB_LISTING_SEC:
            filesystem.invalidate_cache(folder)
            _listed_sec[folder] = now
        return dict(filesystem.info(path))


def fingerprint_of(info: dict[str, Any]) -> Fingerprint:
    """The same from what a file system says of a file; each has words of its own for the two."""
    found: Fingerprint = {} if info.get("size") is None else {"size": int(info["size"])}
    for word in ("ETag", "etag", "md5Hash", "blob_id", "checksum"):
        if info.get(word):
            return found | {"etag": str(info[word]).strip('"')}
    for word in ("LastModified", "last_modified", "updated", "mtime", "created"):
        if info.get(word):
            return found | {"modified": str(info[word])}
    return found


def read_whole(location: str) -> bytes:
    """All bytes of a file or URL; transient failures are tried again."""

    def read() -> bytes:
        if "://" not in location:
            return Path(location).read_bytes()  # a fifth of fsspec's time, where each picture is a file
        filesystem, path = filesystem_of(location)
        return bytes(filesystem.cat_file(path))  # one request, where `open` asks for the size first

    return retrying(read, location)


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
