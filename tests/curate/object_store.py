"""A real S3 server on loopback (moto's), and a gate before it that counts requests and fails where it is told to."""

import http.client
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import fsspec

BUCKET = "pairs"
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "upgrade", "content-length"}


class Gate(ThreadingHTTPServer):
    """Hands each request on to the store. failures: statuses that the next requests for `failing` are answered with.

    A failure of 0 is a connection that closes in the middle of the answer.
    """

    daemon_threads = True

    def __init__(self, store: tuple[str, int]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.store = store
        self.failures: list[int] = []
        self.failing, self.method = "", "GET"
        self.requests: list[tuple[str, str, str]] = []  # method, path, range

    def fail(self, *statuses: int, path: str = "", method: str = "GET") -> None:
        """Answer the next requests whose path contains `path` with these statuses."""
        self.failures, self.failing, self.method = list(statuses), path, method

    def ranges(self, path: str) -> list[str]:
        """The ranges that were read of a path."""
        return [bytes_ for method, found, bytes_ in self.requests if method == "GET" and path in found and bytes_]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Gate

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        gate = self.server
        gate.requests.append((self.command, self.path, self.headers.get("Range", "")))
        status = None
        if gate.failures and self.command == gate.method and gate.failing in self.path:
            status = gate.failures.pop(0)
        if status:
            code = {403: "AccessDenied", 404: "NoSuchKey"}.get(status, "InternalError")
            self._answer(status, [], f"<Error><Code>{code}</Code><Message>not now</Message></Error>".encode())
            return
        connection = http.client.HTTPConnection(*gate.store)
        connection.request(self.command, self.path, body, dict(self.headers))
        answer = connection.getresponse()
        data, headers = answer.read(), answer.getheaders()
        connection.close()
        if status == 0:
            self.send_response(answer.status)
            self.send_header("Content-Length", str(len(data) + 1000))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
            return
        self._answer(answer.status, headers, data)

    def _answer(self, status: int, headers: list[tuple[str, str]], data: bytes) -> None:
        self.send_response(status)
        length = {key.lower(): value for key, value in headers}.get("content-length")
        for key, value in headers:
            if key.lower() not in HOP_BY_HOP:
                self.send_header(key, value)
        self.send_header("Content-Length", length if self.command == "HEAD" and length else str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass_on  # noqa: N815

    def log_message(self, *arguments: Any) -> None:
        """Nothing: the test's own output is enough."""


@contextmanager
def object_store() -> Iterator[Gate]:
    """Serve an empty bucket; the environment points every S3 client of this process, and of those below it, here."""
    from moto.server import ThreadedMotoServer  # a second that the tests without a store need not wait

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request otherwise
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    store = server.get_host_and_port()
    connection = http.client.HTTPConnection(*store)
    connection.request("POST", "/moto-api/reset")  # its buckets outlive a server of the same process
    assert connection.getresponse().status == 200
    connection.close()
    gate = Gate(store)
    threading.Thread(target=gate.serve_forever, daemon=True).start()
    host, port = gate.server_address[:2]
    before = dict(os.environ)
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host!s}:{port}",
        "AWS_MAX_ATTEMPTS": "1",  # the client's own retries are silent; ours are what is tested
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    try:
        fsspec.filesystem("s3", skip_instance_cache=True).mkdir(BUCKET)
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        yield gate
    finally:
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        os.environ.clear()
        os.environ |= before
        gate.shutdown()
        gate.server_close()
        server.stop()
