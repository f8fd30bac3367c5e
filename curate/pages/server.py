"""Pages served on this machine: who may ask, what goes back beside the answer, how it ends.

Loopback only, unless a host is asked for: then a token, too, which the address holds once and a cookie after that.
A page of another site that the same browser has open could send requests here too, so any other host, origin or fetch
site is refused, and what writes takes nothing but JSON that names its origin.
"""

import asyncio
import errno
import os
import secrets
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import duckdb
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from curate.database.connection import first_line
from curate.errors import CurateError, UsageError
from curate.terminal.progress import say

HOST = "127.0.0.1"
SILENT_SEC = 30
"""How long a connection waits for its next request, and how long answers under way may take after Ctrl-C."""
BODY_SEC = 5
"""How long the rest of a short body may take to come."""

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}


def html(page: str, policy: str) -> HTMLResponse:
    """A page with its content policy; no other page may frame it."""
    return HTMLResponse(page, headers={"Content-Security-Policy": f"{policy}; frame-ancestors 'none'"})


def page_app(
    get: Mapping[str, Callable[[Request], Response]],
    post: Mapping[str, Callable[[dict[str, Any]], Response]] | None = None,
    token: str | None = None,
) -> ASGIApp:
    """What answers requests, each in a thread of its own.

    get: Starlette's path -> its answer. post: path -> its answer to the JSON object that a page of ours sent.
    token: other machines may ask, too, when they know it.
    An answer may raise HTTPException; CurateError and duckdb.Error become a 500 that says why.
    """
    routes = [Route(path, answer) for path, answer in get.items()]
    routes += [Route(path, _takes_json(answer), methods=["POST"]) for path, answer in (post or {}).items()]
    handlers: dict[Any, Any] = {404: _not_found, 405: _not_allowed, CurateError: _failed, duckdb.Error: _failed}
    app = Starlette(routes=routes, exception_handlers=handlers)
    app.router.redirect_slashes = False
    return _OwnPagesOnly(app, token)


class _OwnPagesOnly:
    """Refuses what is not from a page of ours, and puts HEADERS on every answer."""

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self.app, self.token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        reason = refusal(Headers(scope=scope), scope["server"][1], self.token is None)
        app = PlainTextResponse(f"refused: {reason}", 403) if reason else self.app
        if self.token is not None and not reason:
            app = self._with_token(Request(scope), self.token)
        await app(scope, receive, send_with_headers)

    def _with_token(self, request: Request, token: str) -> ASGIApp:
        """Who brings the token gets a cookie and an address without it; who has the cookie gets what was asked for."""
        cookie = f"pairsieve-{request.scope['server'][1]}"  # a browser sends a host's cookies to each of its ports
        if _same(request.cookies.get(cookie, ""), token):
            return self.app
        if not _same(request.query_params.get("token", ""), token):
            return PlainTextResponse("refused: open the address that `curate` printed, with its token", 403)
        answer = RedirectResponse(request.url.path, 303)
        answer.set_cookie(cookie, token, httponly=True, samesite="strict")
        return answer


def _same(given: str, token: str) -> bool:
    """In a time that tells nothing of how much is right."""
    return secrets.compare_digest(given.encode(), token.encode())


def refusal(headers: Mapping[str, str], port: int, loopback: bool = True) -> str | None:
    """Why a request is not from a page of ours, or None. loopback: no other machine may ask."""
    # Starlette's TrustedHostMiddleware looks at no port, but another port is another site's server.
    hosts = {f"{host}:{port}" for host in (HOST, "localhost")} if loopback else {headers.get("host", "")}
    if headers.get("host") not in hosts:
        return "another host"
    if headers.get("origin") not in {None, *(f"http://{host}" for host in hosts)}:
        return "another origin"
    if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        return "another site"
    return None


def _takes_json(answer: Callable[[dict[str, Any]], Response]) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        return await run_in_threadpool(answer, await _sent(request))

    return endpoint


async def _sent(request: Request) -> dict[str, Any]:
    """The JSON object in a request's body. Raises: HTTPException."""
    headers = request.headers
    if "origin" not in headers:  # every browser names it; a form of another page cannot leave it out
        raise HTTPException(403, "refused: no origin")
    size = "" if "transfer-encoding" in headers else headers.get("content-length", "")
    if headers.get("content-type") != "application/json" or not size.isdecimal() or len(size) > 4:
        raise HTTPException(400, "a short JSON document is needed")
    try:
        async with asyncio.timeout(BODY_SEC):
            return dict(await request.json())
    except (ValueError, TypeError, TimeoutError, ClientDisconnect) as error:
        raise HTTPException(400, "a JSON object is needed") from error


def _not_found(request: Request, error: HTTPException) -> Response:
    return PlainTextResponse("no such page", 404)


def _not_allowed(request: Request, error: HTTPException) -> Response:
    allowed = sorted((error.headers or {})["Allow"].split(", "))  # Starlette keeps them in a set
    return PlainTextResponse(f"only {' and '.join(allowed)}", 405, {"Allow": ", ".join(allowed)})


def _failed(request: Request, error: Exception) -> Response:
    asked = b"?".join(filter(None, (request.scope["raw_path"], request.scope["query_string"])))
    say(f"curate: {asked.decode()}: {first_line(error)}")
    return PlainTextResponse(first_line(error), 500)


class Server(uvicorn.Server):
    """A server that listens from the start, on 127.0.0.1 unless told otherwise; port 0 takes a free one.

    token: what `app` asks for; the address has it. Raises: UsageError.
    """

    def __init__(self, app: ASGIApp, port: int, host: str = HOST, token: str | None = None) -> None:
        # What is named here would otherwise depend on which packages are installed, or trust headers, or print.
        config = uvicorn.Config(
            app,
            loop="asyncio",
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",
            access_log=False,
            proxy_headers=False,
            headers=[("Server", "pairsieve")],
            timeout_keep_alive=SILENT_SEC,
            timeout_graceful_shutdown=SILENT_SEC,
        )
        super().__init__(config)
        self.listening = _listen(host, port)
        self.port: int = self.listening.getsockname()[1]
        named = socket.gethostname() if host in ("0.0.0.0", "") else host
        self.address = f"http://{named}:{self.port}/" + (f"?token={token}" if token else "")

    def serve_until_ctrl_c(self) -> None:
        """Answer; after Ctrl-C finish the answers under way and close connections that only wait.

        Raises: KeyboardInterrupt, once all has ended. Outside the main thread it ends when `should_exit` is set.
        """
        with self.listening:
            self.run([self.listening])


def _listen(host: str, port: int) -> socket.socket:
    """uvicorn would log why a port cannot be had, and exit."""
    try:
        listening = socket.create_server((host, port))
    except OSError as error:
        reason = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
        if host != HOST and error.errno != errno.EADDRINUSE:
            raise UsageError(f"--host {host}: {reason}; give an address of this machine, or 0.0.0.0 for all") from error
        raise UsageError(f"--port {port}: {reason}; choose another, or 0 for a free one") from error
    # Connections inherit it: without it a small answer waits for the browser's delayed acknowledgement, 40 ms.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening
