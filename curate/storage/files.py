"""Files by path or URL: failures that pass are tried again, and a changed file is known by its fingerprint."""

import errno
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem

from curate.terminal.progress import say

T = TypeVar("T")
Fingerprint = dict[str, int | str]

# Half a minute in all: longer than a throttled or restarting server, short of a night's outage.
RETRY_WAITS_SEC: tuple[float, ...] = (0.5, 1, 2, 4, 8, 16)
_PERMANENT = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)
_TRANSIENT_ERRNO = {
    *(errno.ECONNRESET, errno.ECONNABORTED, errno.ECONNREFUSED, errno.EPIPE, errno.ETIMEDOUT, errno.EAGAIN),
    *(errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ESTALE),
}
# By name, since none of these packages is needed where no such URL is read (aiohttp, botocore, urllib3, httpx).
_TRANSIENT_NAMES = {
    *("ClientConnectionError", "ClientPayloadError", "HTTPClientError", "EndpointConnectionError", "TransportError"),
    *("ConnectionClosedError", "IncompleteReadError", "ResponseStreamingError", "ProtocolError", "SlowDown"),
}
_TRANSIENT_CODES = {
    *("SlowDown", "RequestTimeout", "Throttling", "ThrottlingException", "InternalError", "503", "500"),
    "ConditionalRequestConflict",  # two create one object at once, and neither is told that it lost
}


def retrying(work: Callable[[], T], what: str) -> T:
    """`work()`, again after a growing wait while it fails by what passes: outages, timeouts, 5xx, throttling.

    Each failure is said on stderr, naming `what`. Raises: whatever `work` raises last, or at once when it is permanent.
    """
    # By hand: tenacity needs more lines, takes 14 µs a call instead of 0.2 (a picture of 60 kB is read in 10), keeps
    # what the last failure held until a garbage collection, and goes on after Ctrl-C where a lost connection preceded.
    for count, wait_sec in enumerate(RETRY_WAITS_SEC, start=1):
        try:
            return work()
        except Exception as error:
            if not is_transient(error):
                raise
            say(
                f"{what}: {type(error).__name__}: {error}; trying again in {wait_sec:g} s "
                f"({count} of {len(RETRY_WAITS_SEC)})"
            )
            time.sleep(wait_sec)
    return work()


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed later; a file that is absent or forbidden stays so."""
    for one in _chain(error):
        if isinstance(one, _PERMANENT):
            return False
        if isinstance(one, ConnectionError | TimeoutError) or _error_code(one) in _TRANSIENT_CODES:
            return True
        status = http_status(one)
        if status is not None:
            return status in (408, 425, 429) or (status >= 500 and status != 501)
        if isinstance(one, OSError) and one.errno in _TRANSIENT_ERRNO:
            return True
        if _TRANSIENT_NAMES & {kind.__name__ for kind in type(one).__mro__}:
            return True
    return False


def changed_meanwhile(error: BaseException) -> bool:
    """Whether a store refused to go on reading a file because it was replaced: HTTP 412, Precondition Failed."""
    return any(http_status(one) == 412 or type(one).__name__ == "FileExpired" for one in _chain(error))


def already_there(error: BaseException) -> bool:
    """Whether a store refused to create a file because there is one: HTTP 412 again, or what fsspec makes of it."""
    return any(isinstance(one, FileExistsError) or http_status(one) == 412 for one in _chain(error))


def not_implemented(error: BaseException) -> bool:
    """Whether a server knows the request, but not what it asks for: HTTP 501."""
    return any(http_status(one) == 501 for one in _chain(error))


def http_status(error: BaseException) -> int | None:
    """The HTTP status that an error of botocore, aiohttp, gcsfs, requests or httpx carries."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        found = getattr(response, "status_code", None)
    for value in (found, getattr(error, "status", None), getattr(error, "code", None)):
        if isinstance(value, int) and 100 <= value < 600:
            return value
    return None


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
    filesystem, path = fsspec.core.url_to_fs(file)
    if isinstance(filesystem, LocalFileSystem):
        state = os.stat(path)  # noqa: PTH116 -- of the file that a link leads to
        seconds, nanoseconds = divmod(state.st_mtime_ns, 1_000_000_000)
        modified = datetime.fromtimestamp(seconds, UTC)
        return {"size": state.st_size, "modified": f"{modified:%Y-%m-%dT%H:%M:%S}.{nanoseconds:09d}"}
    filesystem.invalidate_cache(path)
    return fingerprint_of(retrying(lambda: filesystem.info(path), file))


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
        with fsspec.open(location, "rb") as stream:
            return bytes(stream.read())

    return retrying(read, location)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what it came from."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or one.__context__


def _error_code(error: BaseException) -> str | None:
    response = getattr(error, "response", None)
    return response.get("Error", {}).get("Code") if isinstance(response, dict) else None


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
