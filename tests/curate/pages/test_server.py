"""The server of pages: what it refuses whatever the page, what it says of failures, how it ends."""

import http.client
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import duckdb
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from uvicorn.protocols.http.h11_impl import H11Protocol

from curate.errors import RunError, UsageError
from curate.pages import server as server_module
from curate.pages.server import HEADERS, Server, page_app
from tests.curate.serving import in_a_thread

ERRORS = {
    "run": RunError("no such picture"),
    "sql": duckdb.Error("a first line\nLINE 1: ^"),
    "bug": KeyError("a bug"),
}


def fail(request: Request) -> Response:
    raise ERRORS[request.path_params["name"]]


def echo(sent: dict[str, Any]) -> Response:
    return JSONResponse(sent)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    get: dict[str, Callable[[Request], Response]] = {"/": lambda _: PlainTextResponse("here"), "/fail/{name}": fail}
    with in_a_thread(Server(page_app(get, post={"/echo": echo}), 0)) as port:
        yield port


def raw(port: int, text: str) -> str:
    """What comes back for these bytes, until the server closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(text.encode())
        return connection.makefile("rb").read().decode()


def own_head(port: int, *headers: str) -> str:
    lines = ["POST /echo HTTP/1.1", f"Host: 127.0.0.1:{port}", f"Origin: http://127.0.0.1:{port}", "Connection: close"]
    return "\r\n".join((*lines, "Content-Type: application/json", *headers, "", ""))


def own_post(port: int, body: str, *headers: str) -> str:
    return raw(port, own_head(port, *headers) + body)


def ask(port: int, method: str, target: str) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, target)
    answer = connection.getresponse()
    found = answer, answer.read()
    connection.close()
    return found


@pytest.fixture(scope="module")
def open_port() -> Iterator[int]:
    """A server that other machines may ask, if they know the token."""
    app = page_app({"/": lambda _: PlainTextResponse("here")}, {"/echo": echo}, token="a-secret")
    with in_a_thread(Server(app, 0, "0.0.0.0", "a-secret")) as port:
        yield port


def ask_with(port: int, target: str, **headers: str) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", target, headers={"Host": f"lab.example:{port}"} | headers)
    answer = connection.getresponse()
    found = answer.status, answer.headers, answer.read()
    connection.close()
    return found


def test_another_machine_needs_the_token_once(open_port: int) -> None:
    refused = (403, b"refused: open the address that `curate` printed, with its token")
    for target in ("/", "/?token=", "/?token=a-secreT", "/?token=%C3%A9"):
        assert ask_with(open_port, target)[::2] == refused
    status, headers, _ = ask_with(open_port, "/?token=a-secret")
    assert (status, headers["Location"]) == (303, "/")
    assert headers["Set-Cookie"] == f"pairsieve-{open_port}=a-secret; HttpOnly; Path=/; SameSite=strict"
    assert ask_with(open_port, "/", Cookie=f"pairsieve-{open_port}=a-secret")[::2] == (200, b"here")
    assert ask_with(open_port, "/", Cookie=f"pairsieve-{open_port}=another")[::2] == refused


def test_another_site_is_refused_though_the_browser_has_the_cookie(open_port: int) -> None:
    cookie = {"Cookie": f"pairsieve-{open_port}=a-secret"}
    assert ask_with(open_port, "/", Origin="http://evil.example", **cookie)[::2] == (403, b"refused: another origin")
    assert ask_with(open_port, "/", **{"Sec-Fetch-Site": "cross-site"}, **cookie)[0] == 403
    assert ask_with(open_port, "/", Origin=f"http://lab.example:{open_port}", **cookie)[0] == 200


def test_the_address_that_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "lab")
    server = Server(page_app({}, token="t"), 0, "0.0.0.0", "t")
    server.listening.close()
    assert server.address == f"http://lab:{server.port}/?token=t"
    with pytest.raises(UsageError, match=r"--host 203\.0\.113\.1: .*; give an address of this machine"):
        Server(page_app({}), 0, "203.0.113.1")


def test_what_a_page_sends(port: int) -> None:
    assert own_post(port, '{"a": 1}', "Content-Length: 8").endswith('\r\n\r\n{"a":1}')


def test_a_body_of_no_stated_length_is_not_read(port: int) -> None:
    chunks = '8\r\n{"a": 1}\r\n0\r\n\r\n'
    for headers in (["Transfer-Encoding: chunked"], ["Transfer-Encoding: chunked", "Content-Length: 8"]):
        assert own_post(port, chunks, *headers).endswith("\r\n\r\na short JSON document is needed")


def test_a_body_that_does_not_come(
    port: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server_module, "BODY_SEC", 0.2)
    assert own_post(port, '{"a"', "Content-Length: 8").endswith("\r\n\r\na JSON object is needed")
    monkeypatch.setattr(server_module, "BODY_SEC", 20)
    with socket.create_connection(("127.0.0.1", port)) as leaving:
        leaving.sendall(own_head(port, "Content-Length: 8").encode())
    assert ask(port, "GET", "/")[1] == b"here"
    time.sleep(0.2)  # in which a traceback would have come
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("method", "target", "status", "allow", "text"),
    [
        ("POST", "/", 405, "GET, HEAD", b"only GET and HEAD"),
        ("GET", "/echo", 405, "POST", b"only POST"),
        ("GET", "/none", 404, None, b"no such page"),
        ("GET", "/fail/run/", 404, None, b"no such page"),  # no redirect
    ],
)
def test_what_is_not_there(port: int, method: str, target: str, status: int, allow: str | None, text: bytes) -> None:
    answer, body = ask(port, method, target)
    assert (answer.status, answer.getheader("Allow"), body) == (status, allow, text)
    assert {name: answer.getheader(name) for name in HEADERS} == HEADERS


def test_failures_are_said_in_one_line(port: int, capfd: pytest.CaptureFixture[str]) -> None:
    for name, text in (("run", "no such picture"), ("sql", "a first line")):
        answer, body = ask(port, "GET", f"/fail/{name}?a=%20b")
        assert (answer.status, body.decode()) == (500, text)
        assert capfd.readouterr().err == f"curate: /fail/{name}?a=%20b: {text}\n"


def test_a_bug_keeps_its_traceback_and_the_headers(port: int, caplog: pytest.LogCaptureFixture) -> None:
    answer, body = ask(port, "GET", "/fail/bug")
    assert (answer.status, body) == (500, b"Internal Server Error")
    assert {name: answer.getheader(name) for name in HEADERS} == HEADERS
    for _ in range(100):  # it is logged once the answer is on its way
        if "KeyError: 'a bug'" in caplog.text:
            return
        time.sleep(0.05)
    raise AssertionError(caplog.text)


def test_what_is_no_request_is_answered_without_a_word(port: int, capfd: pytest.CaptureFixture[str]) -> None:
    assert raw(port, "nonsense\r\n\r\n").startswith("HTTP/1.1 400 ")
    assert raw(port, "GET / HTTP/1.0\r\n\r\n").endswith("refused: another host")
    assert capfd.readouterr() == ("", "")


def test_small_answers_do_not_wait(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With Nagle's algorithm each small answer of a kept connection but the first would wait some 40 ms."""
    made, no_delay = H11Protocol.connection_made, []

    def noted(protocol: H11Protocol, transport: Any) -> None:
        no_delay.append(transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        made(protocol, transport)

    monkeypatch.setattr(H11Protocol, "connection_made", noted)
    assert ask(port, "GET", "/")[0].status == 200
    assert no_delay == [1]


def test_a_port_that_is_taken(port: int) -> None:
    with pytest.raises(
        UsageError, match=f"^--port {port}: Address already in use; choose another, or 0 for a free one$"
    ):
        Server(page_app({}), port)


def interrupt() -> None:
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_lets_an_answer_under_way_finish() -> None:
    def slow(request: Request) -> Response:
        interrupt()
        time.sleep(0.5)
        return PlainTextResponse("finished")

    server, found = Server(page_app({"/": slow}), 0), []
    asking = threading.Thread(target=lambda: found.append(ask(server.port, "GET", "/")[1]))
    asking.start()
    with pytest.raises(KeyboardInterrupt):
        server.serve_until_ctrl_c()
    asking.join()
    assert found == [b"finished"]


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_as_a_connection_comes_in(monkeypatch: pytest.MonkeyPatch) -> None:
    made = H11Protocol.connection_made

    def interrupted(protocol: H11Protocol, transport: Any) -> None:
        interrupt()
        time.sleep(0.1)  # as on a busy machine
        made(protocol, transport)

    monkeypatch.setattr(H11Protocol, "connection_made", interrupted)
    server = Server(page_app({}), 0)
    with socket.create_connection(("127.0.0.1", server.port)) as waiting:
        server.config.timeout_graceful_shutdown = None  # who waits for a request that never comes waits for ever
        with pytest.raises(KeyboardInterrupt):
            server.serve_until_ctrl_c()
        assert waiting.recv(1) == b""
    assert not server.server_state.connections


@pytest.mark.usefixtures("ctrl_c")
def test_connections_that_only_wait_do_not_hold_the_end() -> None:
    server = Server(page_app({"/": lambda _: PlainTextResponse("here")}), 0)
    kept = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)

    def ask_and_wait() -> None:
        kept.request("GET", "/")
        assert kept.getresponse().read() == b"here"
        interrupt()

    asking = threading.Thread(target=ask_and_wait)
    asking.start()
    server.config.timeout_graceful_shutdown = None  # who waits for its next request waits for ever
    with pytest.raises(KeyboardInterrupt):
        server.serve_until_ctrl_c()
    asking.join()
    kept.close()
