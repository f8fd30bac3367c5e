"""`curate browse`: the page of a ranking served on this machine, its gallery by pages over every pair.

Loopback only, read only. A page of another site that the same browser has open could send requests here too, so
any other host, origin or fetch site is refused.
"""

import json
import socket
import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import duckdb

from curate.database.connection import first_line
from curate.database.queries import query_text
from curate.errors import CurateError, UsageError
from curate.pages.pictures import picture_places, thumbnails
from curate.report.figures import figures
from curate.report.gallery import SIDES, Ranking, card, count_steps, open_ranking, orders, pair_rows
from curate.report.page import render_card, render_page
from curate.report.stage import page_values
from curate.sources.images import Rejected
from curate.storage.run import Run
from curate.terminal.progress import say

HOST = "127.0.0.1"
PAGE_PAIRS = 24
MOST_PAGE_PAIRS = 200
MOST_FILTER_CHARACTERS = 1000
PICTURE_PX = 512
PICTURES_KEPT = 2000
POLL_SEC = 0.1
"""How often a server asks whether it shall end."""

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
NO_CONTENT_POLICY = "default-src 'none'; frame-ancestors 'none'"


class BadRequestError(Exception):
    """A request that no page of ours makes; the message goes back as the answer."""


@dataclass
class Answer:
    """What goes back: status, type, body."""

    body: bytes
    kind: str = "text/plain; charset=utf-8"
    status: int = 200
    policy: str = NO_CONTENT_POLICY


@dataclass
class Pictures:
    """Thumbnails of the source's pictures, the latest kept in memory; those of one page are read together."""

    run: Run
    kept: OrderedDict[str, bytes | Rejected] = field(default_factory=OrderedDict)
    page: dict[str, Any] = field(default_factory=dict)  # uid -> its place, of the pairs asked for last
    lock: threading.Lock = field(default_factory=threading.Lock)

    def expect(self, connection: duckdb.DuckDBPyConnection, uids: list[str]) -> None:
        """Say which pictures will be asked for next."""
        self.page = picture_places(connection, uids)

    def get(self, connection: duckdb.DuckDBPyConnection, uid: str) -> bytes | Rejected:
        """WebP, or why there is none. One row group of the source is read once for all its pictures on the page."""
        with self.lock:
            if uid not in self.kept:
                place, page = self.page.get(uid), self.page
                near = [other for other, there in page.items() if place is not None and there[:2] == place[:2]]
                self.kept.update(thumbnails(self.run, connection, near or [uid], PICTURE_PX))
            self.kept.move_to_end(uid)
            answer = self.kept[uid]
            while len(self.kept) > PICTURES_KEPT:
                self.kept.popitem(last=False)
        return answer


@dataclass
class Browser:
    """Everything that answers are made of."""

    ranking: Ranking
    pictures: Pictures
    page: str
    policy: str

    def answer(self, target: str) -> Answer:
        """The answer to a GET of `target`. Raises BadRequestError, duckdb.Error."""
        url = urlsplit(target)
        # A cursor of its own: DuckDB connections are not shared between threads.
        ranking = replace(self.ranking, connection=self.ranking.connection.cursor())
        if url.path == "/":
            return Answer(self.page.encode(), "text/html; charset=utf-8", policy=self.policy)
        if url.path == "/pairs":
            return self._pairs(ranking, parse_qs(url.query, keep_blank_values=True))
        if url.path.startswith("/image/"):
            return self._image(ranking, unquote(url.path.removeprefix("/image/")))
        return Answer(b"no such page", status=404)

    def _pairs(self, ranking: Ranking, query: dict[str, list[str]]) -> Answer:
        words = query.get("filter", [""])[0]
        order = query.get("order", ["best"])[0]
        if len(words) > MOST_FILTER_CHARACTERS:
            raise BadRequestError(f"filter: at most {MOST_FILTER_CHARACTERS} characters")
        if order not in orders(ranking.scorers):
            raise BadRequestError(f"order: one of {', '.join(orders(ranking.scorers))}")
        limit = _whole_number(query, "limit", PAGE_PAIRS, MOST_PAGE_PAIRS)
        offset = _whole_number(query, "offset", 0, ranking.pairs)
        rows = pair_rows(ranking, order, offset, limit, words)
        counted = ranking.connection.execute(query_text("report/gallery_count"), {"filter": words}).fetchall()
        self.pictures.expect(ranking.connection, [row[f"{side}_uid"] for row in rows for side in SIDES])
        found = {"pairs": counted[0][0], "cards": [render_card(card(row, ranking)) for row in rows]}
        return Answer(json.dumps(found).encode(), "application/json")

    def _image(self, ranking: Ranking, uid: str) -> Answer:
        picture = self.pictures.get(ranking.connection, uid)
        if isinstance(picture, Rejected):
            return Answer(picture.detail.encode(), status=404)
        return Answer(picture, "image/webp")


def _whole_number(query: dict[str, list[str]], name: str, default: int, most: int) -> int:
    text = query.get(name, [str(default)])[0]
    if not (text.isascii() and text.isdigit() and len(text) < 19 and int(text) <= most):
        raise BadRequestError(f"{name}: a whole number from 0 to {most}")
    return int(text)


def refusal(headers: Any, port: int) -> str | None:
    """Why a request is not from a page of ours, or None."""
    hosts = {f"{host}:{port}" for host in (HOST, "localhost")}
    if headers.get("Host") not in hosts:
        return "another host"
    origin = headers.get("Origin")
    if origin is not None and origin not in {f"http://{host}" for host in hosts}:
        return "another origin"
    if headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
        return "another site"
    return None


def make_handler(
    answer: Callable[[str], Answer], port: Callable[[], int], post: Callable[[str, bytes], Answer] | None = None
) -> type[BaseHTTPRequestHandler]:
    """A request handler over `answer`; `port` is known once the server is bound.

    post: takes the JSON that a page of ours sends; without it nothing can be written.
    """
    methods = "GET and HEAD" if post is None else "GET, HEAD and POST"

    class Handler(BaseHTTPRequestHandler):
        server_version = "pairsieve"
        sys_version = ""
        timeout = 30  # seconds that a connection may stay silent

        def do_GET(self) -> None:
            self._respond(self._answer(), with_body=True)

        def do_HEAD(self) -> None:
            self._respond(self._answer(), with_body=False)

        def refuse_method(self) -> None:
            """405, whatever is asked for."""
            self._respond(Answer(f"only {methods}".encode(), status=405), with_body=True)

        def do_POST(self) -> None:
            if post is None:
                return self.refuse_method()
            size = self.headers.get("Content-Length", "")
            if self.headers.get("Origin") is None:  # every browser names it; a form of another page cannot leave it out
                return self._respond(Answer(b"refused: no origin", status=403), with_body=True)
            if self.headers.get("Content-Type") != "application/json" or not size.isdecimal() or len(size) > 4:
                return self._respond(Answer(b"a short JSON document is needed", status=400), with_body=True)
            body = self.rfile.read(int(size))
            return self._respond(self._answer(lambda path: post(path, body)), with_body=True)

        def _answer(self, found: Callable[[str], Answer] = answer) -> Answer:
            if reason := refusal(self.headers, port()):
                return Answer(f"refused: {reason}".encode(), status=403)
            try:
                return found(self.path)
            except (BadRequestError, ValueError) as error:
                return Answer(str(error).encode(), status=400)
            except (CurateError, duckdb.Error) as error:
                say(f"curate: {self.path}: {first_line(error)}")
                return Answer(first_line(error).encode(), status=500)

        def _respond(self, found: Answer, with_body: bool) -> None:
            try:
                self.send_response(found.status)
                stated = {"Content-Type": found.kind, "Content-Length": str(len(found.body)), **HEADERS}
                if found.status == 405:
                    stated["Allow"] = methods.replace(" and", ",")
                for name, value in (stated | {"Content-Security-Policy": found.policy}).items():
                    self.send_header(name, value)
                self.end_headers()
                if with_body:
                    self.wfile.write(found.body)
            except ConnectionError:
                self.close_connection = True  # the browser turned the page before the answer came

        def log_message(self, format: str, *values: Any) -> None:
            """Nothing: a line a picture would bury what matters."""

    for method in ("PUT", "DELETE", "PATCH", "OPTIONS"):
        setattr(Handler, f"do_{method}", Handler.refuse_method)
    return Handler


class Server(ThreadingHTTPServer):
    """A server that ends well: answers under way are finished, connections that only wait are closed.

    It serves in a thread of its own: Ctrl-C meets a main thread that waits, and cuts no connection as it comes in.
    """

    daemon_threads = False

    def __init__(self, port: int, handler: type[BaseHTTPRequestHandler]) -> None:
        self.open_requests: set[Any] = set()
        self.serving = threading.Thread(target=self.serve_forever, daemon=True)
        super().__init__((HOST, port), handler)

    def start(self) -> None:
        """Serve from now on, until the server is closed."""
        self.serving.start()

    def serve_forever(self, poll_interval: float = POLL_SEC) -> None:
        """Not where Ctrl-C closed the server before its thread began."""
        if self.socket.fileno() >= 0:
            super().serve_forever(poll_interval)

    def wait(self) -> None:
        """Until Ctrl-C. Raises: KeyboardInterrupt."""
        while self.serving.is_alive():  # a wait without an end misses a signal that another thread received
            self.serving.join(POLL_SEC)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Remember the connection, and answer it in a thread of its own."""
        self.open_requests.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """The connection is done."""
        self.open_requests.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        """Wait for answers under way. A browser keeps idle connections open: those read nothing more."""
        if self.serving.ident is not None:
            self.shutdown()
        for request in tuple(self.open_requests):
            with suppress(OSError):  # it closed meanwhile
                request.shutdown(socket.SHUT_RD)
        super().server_close()


def make_server(run: Run, name: str, port: int) -> Server:
    """A server bound to 127.0.0.1, ready to serve; port 0 takes a free one. Raises: RunError, UsageError."""
    ranking = open_ranking(run, name)
    steps = count_steps(run.summary(), ranking.settings)
    drawn = figures(ranking.connection, ranking.settings, ranking.scorers, ranking.calibration, steps)
    values = page_values(run, ranking, steps)
    page, policy = render_page(drawn, None, orders=orders(ranking.scorers), page_pairs=PAGE_PAIRS, **values)
    browser = Browser(ranking, Pictures(run), page, policy + "; frame-ancestors 'none'")
    bound: list[int] = []
    try:
        server = Server(port, make_handler(browser.answer, lambda: bound[0]))
    except OSError as error:
        raise UsageError(f"--port {port}: {error.strerror}; choose another, or 0 for a free one") from error
    bound.append(server.server_address[1])
    return server


def browse(run: Run, name: str, port: int) -> None:
    """Serve until Ctrl-C. Raises: RunError, UsageError."""
    with make_server(run, name, port) as server, suppress(KeyboardInterrupt):
        server.start()
        say(f"serving ranking '{name}' of {run.root}; end with Ctrl-C")
        print(f"http://{HOST}:{server.server_address[1]}/", flush=True)  # noqa: T201
        server.wait()
    say("ended")
