"""What fails at a URL: whether it passes when tried again, and why in words, whichever client raised it."""

import errno
import re
import socket
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import TypeVar

import fsspec

# aiohttp, by which fsspec reads http(s), looks at HTTPS_PROXY and NO_PROXY only where it is told to.
for _protocol in ("http", "https"):
    fsspec.config.conf.setdefault(_protocol, {}).setdefault("client_kwargs", {}).setdefault("trust_env", True)

T = TypeVar("T")

LONGEST_ASKED_WAIT_SEC = 600.0  # twice the Hugging Face hub's window of five minutes
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


def tried_again(work: Callable[[], T], what: str, waits_sec: tuple[float, ...], say: Callable[[str], None]) -> T:
    """`work()`, again after each wait while it fails by what passes; `say` hears of each failure, naming `what`.

    Raises: whatever `work` raises last, or at once when it is permanent.
    """
    # By hand: tenacity needs more lines, takes 14 µs a call instead of 0.2 (a picture of 60 kB is read in 10), keeps
    # what the last failure held until a garbage collection, and goes on after Ctrl-C where a lost connection preceded.
    for count, wait_sec in enumerate(waits_sec, start=1):
        try:
            return work()
        except Exception as error:
            if not is_transient(error):
                raise
            wait_sec = max(wait_sec, asked_wait_sec(error))
            say(f"{what}: {why(error)}; trying again in {wait_sec:g} s ({count} of {len(waits_sec)})")
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
    # aiohttp warns of its own `code`, and has a status, too; a body that was cut is none of the server's answers
    silent = hasattr(error, "status") or "BadHttpMessage" in {kind.__name__ for kind in type(error).__mro__}
    code = None if silent else getattr(error, "code", None)
    return code if isinstance(code, int) and 100 <= code < 600 else None


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
