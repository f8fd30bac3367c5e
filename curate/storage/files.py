"""Files by path or URL: failures that pass are tried again, and a changed file is known by its fingerprint."""

import errno
import hashlib
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem

from curate.terminal.progress import say

# aiohttp, by which fsspec reads http(s), looks at HTTPS_PROXY and NO_PROXY only where it is told to.
for _protocol in ("http", "https"):
    fsspec.config.conf.setdefault(_protocol, {}).setdefault("client_kwargs", {}).setdefault("trust_env", True)

T = TypeVar("T")
Fingerprint = dict[str, int | str]

# Half a minute in all: longer than a throttled or restarting server, short of a night's outage.
RETRY_WAITS_SEC: tuple[float, ...] = (0.5, 1, 2, 4, 8, 16)
LONGEST_ASKED_WAIT_SEC = 600.0  # twice the Hugging Face hub's window of five minutes
# The hub counts requests (500 to 1,000 in five minutes), and a listing of a folder tells all of its files.
HUB_LISTING_SEC = 600.0
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
            wait_sec = max(wait_sec, asked_wait_sec(error))
            say(f"{what}: {why(error)}; trying again in {wait_sec:g} s ({count} of {len(RETRY_WAITS_SEC)})")
            time.sleep(wait_sec)
    return work()


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed later; a file that is absent or forbidden stays so."""
    for one in _chain(error):
        if type(one).__name__ == "OfflineModeIsEnabled":  # a ConnectionError of huggingface_hub
            return False
        # fsspec's HTTP says that a file is not found whatever the server answered, and then names that as the cause.
        if isinstance(one, _PERMANENT) and one.__cause__ is None:
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


def is_absent(error: BaseException) -> bool:
    """Whether there is no such file, or it is not for us: a path that leads nowhere, or any 4xx that does not pass."""
    if is_transient(error):
        return False
    statuses = [status for one in _chain(error) if (status := http_status(one)) is not None]
    nowhere = isinstance(error, OSError) and error.errno in (errno.ENAMETOOLONG, errno.ELOOP)
    return nowhere or isinstance(error, _PERMANENT) or (bool(statuses) and 400 <= statuses[0] < 500)


def asked_wait_sec(error: BaseException) -> float:
    """How long the server asks to wait, by Retry-After or RateLimit; 0 where it does not."""
    for one in _chain(error):
        headers = getattr(getattr(one, "response", None), "headers", None) or getattr(one, "headers", None) or {}
        limit = re.search(r"t=(\d+)", headers.get("RateLimit", "")) if http_status(one) == 429 else None
        asked = limit[1] if limit else headers.get("Retry-After", "")
        if asked.isdecimal():
            return min(float(asked), LONGEST_ASKED_WAIT_SEC)
    return 0.0


def why(error: BaseException) -> str:
    """What a look at a file or a download failed by, in words that go into a sentence."""
    chain = list(_chain(error))
    for one in chain:
        if type(one).__name__ == "OfflineModeIsEnabled":
            return "it is not in the cache, and HF_HUB_OFFLINE forbids to ask the hub"
        if isinstance(one, ImportError):
            return f"a package is missing: {one}"
        if isinstance(one, OSError) and one.errno in (errno.ENOSPC, errno.EDQUOT):
            return "the disk of the cache is full"
        if isinstance(one, socket.gaierror):
            return "the server's name cannot be resolved; is there a network?"
    for one in chain:
        status = http_status(one)
        if status is not None:
            return _status_words(status)
        if "Proxy" in type(one).__name__:
            return f"the proxy of HTTP_PROXY or HTTPS_PROXY does not serve it ({_first_line(one)})"
    named = isinstance(error, OSError) and error.errno is not None  # it says what is wrong by itself
    return _first_line(error) if named else f"{type(error).__name__}: {_first_line(error)}"


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
    for value in (found, getattr(error, "status", None)):
        if isinstance(value, int) and 100 <= value < 600:
            return value
    # aiohttp warns of its own `code`, and has a status, too
    code = None if hasattr(error, "status") else getattr(error, "code", None)
    return code if isinstance(code, int) and 100 <= code < 600 else None


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


def _status_words(status: int) -> str:
    phrase = HTTPStatus(status).phrase if status in HTTPStatus.__members__.values() else ""
    advice = {
        401: ": its name is wrong, or it is private; check the name, then log in (`hf auth login`, HF_TOKEN)",
        403: ": it is not for everyone; accept its terms on its page, then log in (`hf auth login`, HF_TOKEN)",
        404: ": there is no such file",
        407: ": the proxy wants a login, in HTTPS_PROXY",
        429: ": too many requests; wait some minutes",
    }
    return f"the server answers {status} {phrase}".rstrip() + advice.get(status, "")


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no details")


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
