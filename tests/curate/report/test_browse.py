"""The live page: what it answers, whom it refuses, how it looks in a browser, how it ends."""

import http.client
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from curate.rank import RankOptions, rank
from curate.rank.filters import Filters
from curate.report.browse import make_server
from curate.storage.run import Run
from tests.curate.builders import Outcome
from tests.curate.chromium import all_charts_drawn, browser_page, needs_browser, overflow_px, until
from tests.curate.serving import in_a_thread
from tests.demo import ROOT


class Got(NamedTuple):
    """An answer: status, headers, body."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes


@pytest.fixture(scope="module")
def run(ranked_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two rankings: `worst` has the same pairs in the opposite order."""
    copy = Path(shutil.copytree(ranked_run, tmp_path_factory.mktemp("browsed") / "run"))
    rank(Run(copy), RankOptions(name="worst", reverse=True, top="0.2"))
    return copy


@pytest.fixture(scope="module")
def port(run: Path) -> Iterator[int]:
    """A server over the run, in this process."""
    with in_a_thread(make_server(Run(run), "default", 0)) as port:
        yield port


def ask(port: int, target: str, method: str = "GET", **headers: str) -> Got:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, target, headers={name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    got = Got(answer.status, answer.headers, answer.read())
    connection.close()
    return got


def pairs(port: int, query: str) -> tuple[int, list[int]]:
    """How many pairs there are, and the ranks on the page."""
    found = json.loads(ask(port, f"/pairs?{query}").body)
    return found["pairs"], [int(re.search(r"<b>#([\d,]+)</b>", card)[1].replace(",", "")) for card in found["cards"]]  # type: ignore[index]


def test_the_page(port: int) -> None:
    got = ask(port, "/")
    assert (got.status, got.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    page = got.body.decode()
    assert "data-live" in page
    assert page.count("<article") == 0
    policy = got.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "connect-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert got.headers["X-Content-Type-Options"] == "nosniff"
    assert got.headers["Cache-Control"] == "no-store"
    assert got.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert got.headers["Referrer-Policy"] == "no-referrer"


def test_pages_cover_the_whole_ranking_once(port: int) -> None:
    seen = []
    for offset in range(0, 60, 25):
        total, ranks = pairs(port, f"offset={offset}&limit=25")
        assert total == 60
        seen += ranks
    assert seen == list(range(1, 61))


@pytest.mark.parametrize(
    ("query", "total", "first"),
    [
        ("order=worst&limit=3", 60, [60, 59, 58]),
        ("order=cut&limit=2", 60, [12, 13]),
        ("offset=58", 60, [59, 60]),
        ("offset=60", 60, []),
        ("filter=no+such+prompt", 0, []),
        ("filter=%27%20or%201=1%20--", 0, []),
        ("limit=0", 60, []),
        ("where=rank+in+(3,7)", 2, [3, 7]),
        ("where=rank+<+5+and+selected&order=worst", 4, [4, 3, 2, 1]),
        ("where=rank+<+5+--+a+comment", 4, [1, 2, 3, 4]),
        ("name=worst&limit=2", 60, [1, 2]),
    ],
)
def test_pages_by_order_and_filter(port: int, query: str, total: int, first: list[int]) -> None:
    assert pairs(port, query) == (total, first)


def test_a_filter_reads_any_text(port: int) -> None:
    assert pairs(port, "filter=%3C%2Fscript%3E%3Cscript%3E")[0] == 4
    assert pairs(port, "filter=%E2%84%96+0")[0] == 4
    assert pairs(port, "filter=NUMBER+1")[0] == 24


def first_pair(port: int, query: str = "") -> str:
    card = json.loads(ask(port, f"/pairs?limit=1&{query}").body)["cards"][0]
    return str(re.search(r'data-pair="([^"]+)"', card)[1])  # type: ignore[index]


def test_a_pair_by_its_id(port: int) -> None:
    pair_id = first_pair(port, "offset=30")
    assert pairs(port, f"filter={pair_id}") == (1, [31])


def test_where_the_other_ranking_has_a_pair(port: int) -> None:
    card = json.loads(ask(port, "/pairs?limit=1&beside=worst").body)["cards"][0]
    assert "worst: #60, not selected" in card
    card = json.loads(ask(port, "/pairs?limit=1&name=worst&beside=default").body)["cards"][0]
    assert "default: #60, not selected" in card


def tag(port: int, **sent: object) -> Got:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    headers = {"Content-Type": "application/json", "Origin": f"http://127.0.0.1:{port}"}
    connection.request("POST", "/tag", json.dumps(sent), headers)
    answer = connection.getresponse()
    got = Got(answer.status, answer.headers, answer.read())
    connection.close()
    return got


def test_tags_are_a_table_that_rank_can_use(port: int, run: Path) -> None:
    one, other = first_pair(port), first_pair(port, "offset=1")
    assert json.loads(tag(port, pair_id=one, tag="exclude", on=True).body) == {"tags": ["exclude"]}
    assert json.loads(tag(port, pair_id=one, tag="blurred", on=True).body) == {"tags": ["blurred", "exclude"]}
    assert json.loads(tag(port, pair_id=other, tag="exclude", on=True).body) == {"tags": ["exclude"]}
    tagged = "where=pair_id+in+(select+pair_id+from+tags+where+tag='exclude')"
    assert pairs(port, tagged) == (2, [1, 2])
    assert json.loads(tag(port, pair_id=other, tag="exclude", on=False).body) == {"tags": []}
    assert pairs(port, tagged) == (1, [1])
    assert Run(run).frame("tags").rows() == [(one, "blurred"), (one, "exclude")]
    kept = "pair_id not in (select pair_id from tags where tag = 'exclude')"
    done = rank(Run(run), RankOptions(name="kept", top="1.0", filters=Filters(where=kept)))
    assert (done["base_pairs"], done["dropped_pairs"]) == (59, {"tie": 1, "where": 1})


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        ({"pair_id": "none", "tag": "a", "on": True}, b"pair_id: the run has no such pair"),
        ({"pair_id": "none", "tag": "a b"}, b"tag: letters, digits, '_', '.' and '-' only, at most 40"),
        ({}, b"tag: letters, digits, '_', '.' and '-' only, at most 40"),
    ],
)
def test_tags_that_no_page_of_ours_sends(port: int, sent: dict[str, object], message: bytes) -> None:
    assert tag(port, **sent)[::2] == (400, message)


def test_a_picture(port: int) -> None:
    card = json.loads(ask(port, "/pairs?limit=1").body)["cards"][0]
    for uid in re.findall(r'data-uid="([^"]+)"', card):
        got = ask(port, f"/image/{uid}")
        assert (got.status, got.headers["Content-Type"], got.body[:4]) == (200, "image/webp", b"RIFF")
    assert ask(port, "/image/image-7").status == 200  # though no page named it
    assert ask(port, "/image/image-7?large").body[:4] == b"RIFF"
    assert ask(port, "/image/nothing") [::2] == (404, b"the run has no such image")  # fmt: skip


@pytest.mark.parametrize(
    ("target", "status", "message"),
    [
        ("/pairs?limit=201", 400, "limit: a whole number from 0 to 200"),
        ("/pairs?offset=-1", 400, "offset: a whole number from 0 to 60"),
        ("/pairs?offset=1e9", 400, "offset: a whole number from 0 to 60"),
        ("/pairs?limit=%C2%B2", 400, "limit: a whole number from 0 to 200"),
        ("/pairs?where=no_such_column", 400, "--where: Binder Error: "),
        ("/pairs?where=1%20from%20read_csv('/etc/passwd')%20--", 400, "--where: "),
        ("/pairs?where=" + "x" * 1001, 400, "where: at most 1000 characters"),
        ("/pairs?name=none", 400, "name: one of default, worst"),
        ("/pairs?order=rank", 400, "order: one of best, worst, cut, "),
        ("/pairs?filter=" + "x" * 1001, 400, "filter: at most 1000 characters"),
        ("/favicon.ico", 404, "no such page"),
        ("/image/../run.toml", 404, "the run has no such image"),
        ("/run.toml", 404, "no such page"),
    ],
)
def test_requests_that_no_page_of_ours_makes(port: int, target: str, status: int, message: str) -> None:
    got = ask(port, target)
    assert got.status == status
    assert got.body.decode().startswith(message)
    assert got.headers["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'"


@pytest.mark.parametrize("target", ["/", "/pairs", "/image/image-1"])
@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({"Host": "example.org"}, b"refused: another host"),
        ({"Host": "127.0.0.1"}, b"refused: another host"),
        ({"Host": "127.0.0.1:1"}, b"refused: another host"),
        ({"Origin": "http://example.org"}, b"refused: another origin"),
        ({"Origin": "null"}, b"refused: another origin"),
        ({"Origin": "http://127.0.0.1:1"}, b"refused: another origin"),
        ({"Sec_Fetch_Site": "cross-site"}, b"refused: another site"),
        ({"Sec_Fetch_Site": "same-site"}, b"refused: another site"),
    ],
)
def test_other_hosts_and_origins_are_refused(port: int, target: str, headers: dict[str, str], message: bytes) -> None:
    got = ask(port, target, **headers)
    assert (got.status, got.body) == (403, message)


def test_its_own_names_are_accepted(port: int) -> None:
    for name in ("127.0.0.1", "localhost"):
        own = {"Host": f"{name}:{port}", "Origin": f"http://{name}:{port}", "Sec_Fetch_Site": "same-origin"}
        assert ask(port, "/pairs?limit=1", **own).status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_nothing_can_be_written(port: int, method: str) -> None:
    got = ask(port, "/pairs", method)
    assert (got.status, got.headers["Allow"]) == (405, "GET, HEAD")


def test_head_is_get_without_a_body(port: int) -> None:
    got = ask(port, "/", "HEAD")
    assert (got.status, got.body) == (200, b"")
    assert int(got.headers["Content-Length"]) == len(ask(port, "/").body)


def test_only_loopback_listens(ranked_run: Path) -> None:
    with make_server(Run(ranked_run), "default", 0).listening as listening:
        assert listening.getsockname()[0] == "127.0.0.1"


def test_a_port_that_is_taken(port: int, ranked_run: Path, curate: Callable[..., Outcome]) -> None:
    done = curate("browse", "--run", ranked_run, "--port", port)
    assert (done.code, done.out) == (2, "")
    assert (
        done.err.splitlines()[-1]
        == f"curate: --port {port}: Address already in use; choose another, or 0 for a free one"
    )


def test_ctrl_c_ends_it_well(ranked_run: Path) -> None:
    command = [sys.executable, "-m", "curate.cli", "browse", "--run", str(ranked_run), "--port", "0"]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests in the background ignore it
    ) as server:
        assert server.stdout is not None
        address = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/\n", server.stdout.readline())
        assert address is not None
        assert ask(int(address[1]), "/").status == 200
        with socket.create_connection(("127.0.0.1", int(address[1]))):  # as browsers open them ahead
            server.send_signal(signal.SIGINT)
            _, err = server.communicate(timeout=20)
    assert server.returncode == 0
    assert err == f"opening ranking 'default' of {ranked_run}: 60 pairs\nserving; end with Ctrl-C\nended\n"


def shown(page: Any) -> list[str]:
    return page.locator(".card header b").all_text_contents()


@needs_browser
def test_in_a_browser(port: int) -> None:
    with browser_page(viewport={"width": 390, "height": 844}) as page:
        page.goto(f"http://127.0.0.1:{port}/")
        all_charts_drawn(page)
        page.locator("#place").get_by_text("1 to 24 of 60").wait_for()
        assert shown(page)[0] == "#1"
        for card in page.locator(".card").all():
            card.scroll_into_view_if_needed()
        until(page, "[...document.querySelectorAll('.card img')].every(i => i.complete && i.naturalWidth)")
        assert page.locator("#previous").is_disabled()
        page.locator("#next").click()
        page.locator("#place").get_by_text("25 to 48 of 60").wait_for()
        assert shown(page)[0] == "#25"
        page.locator("#order").select_option("worst")
        page.locator("#place").get_by_text("1 to 24 of 60").wait_for()
        until(page, "document.querySelector('.card header b').textContent === '#60'")
        page.locator("#place").get_by_text("1 to 24 of 60").wait_for()
        page.locator("#where").fill("nonsense")
        page.locator("#count").get_by_text("Binder Error").wait_for()
        page.locator("#where").fill("rank > 50")
        page.locator("#count").get_by_text("10 pairs", exact=True).wait_for()
        page.reload()  # the address says what was asked for
        page.locator("#count").get_by_text("10 pairs", exact=True).wait_for()
        assert page.locator("#where").input_value() == "rank > 50"
        assert shown(page)[0] == "#60"
        page.locator("#where").fill("")
        page.locator("#filter").fill("</script><script>")
        page.locator("#count").get_by_text("4 pairs", exact=True).wait_for()
        assert page.locator(".card h4").first.inner_text().startswith("</script><script>document.title")
        assert overflow_px(page) == 0
        page.complaints[:] = [text for text in page.complaints if "400" not in text]  # of the nonsense
        own = f"http://127.0.0.1:{port}/"
        assert [url for url in page.asked if not url.startswith((own, "data:"))] == []


@needs_browser
def test_two_rankings_tags_and_a_large_picture_in_a_browser(port: int) -> None:
    with browser_page(viewport={"width": 1440, "height": 900}) as page:
        page.goto(f"http://127.0.0.1:{port}/?where=rank+%3C+4&beside=worst")
        page.locator("#pages.two").wait_for()
        assert page.locator("#pages h3").all_inner_texts() == ["default: 3 pairs", "worst: 3 pairs"]
        page.locator("#beside").select_option("")
        until(page, "document.querySelectorAll('#pages .card').length === 3")
        page.locator("#tag").fill("funny")
        button = page.locator(".tag").last
        button.click()
        page.locator(".tags span").get_by_text("funny").wait_for()
        assert button.inner_text() == "no longer “funny”"
        button.click()
        until(page, "[...document.querySelectorAll('.tags span')].every(one => !one.textContent.includes('funny'))")
        page.locator(".card img[src]").first.click()
        until(page, "document.querySelector('#large img').naturalWidth > 0")
        assert page.locator("#large p").inner_text().startswith("✓ the human’s choice · ")
        page.keyboard.press("ArrowRight")
        assert page.locator("#large p").inner_text().startswith("rejected · ")
        page.keyboard.press("Escape")
        assert not page.evaluate("document.querySelector('#large').open")
        assert overflow_px(page) == 0


@needs_browser
def test_a_lost_picture_says_why(ranked_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(ranked_run, tmp_path / "run"))
    settings = (run / "run.toml").read_text()
    (run / "run.toml").write_text(re.sub(r"(\nsize = )\d+", r"\g<1>1", settings))
    with in_a_thread(make_server(Run(run), "default", 0)) as port, browser_page() as page:
        page.goto(f"http://127.0.0.1:{port}/")
        page.locator("#filter").fill("number 1")
        page.locator(".card .lost").first.wait_for()
        assert "changed since it was embedded" in page.locator(".card .lost").first.inner_text()
        page.complaints[:] = [text for text in page.complaints if "404" not in text]
