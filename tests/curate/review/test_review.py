"""Blind review: what the server says and to whom, a browser with keys, a kill, and the data set that comes of it."""

import http.client
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image, PngImagePlugin

from curate.review.stage import ReviewOptions, Sitting, make_server, open_sitting
from curate.storage.run import Run
from schemas.tables import REVIEWED_PAIRS
from tests.curate.builders import MODELS, Outcome, pair_row, write_pairs
from tests.curate.chromium import browser_page, needs_browser, overflow_px, until
from tests.curate.serving import in_a_thread
from tests.demo import ROOT

Curate = Callable[..., Outcome]
SECRET = "drawn by secret-model"
LEFT: dict[str, Any] = {"place": 0, "choice": "left", "seconds": 1}


def png_with_a_secret(seed: int) -> bytes:
    """A PNG whose metadata names its model, as many programs write it."""
    picture, buffer, info = Image.open(BytesIO(pair_row(seed)["jpg_0"])), BytesIO(), PngImagePlugin.PngInfo()
    info.add_text("parameters", SECRET)
    picture.save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight pairs of two models over four prompts; copy it before reviewing it."""
    from curate import cli

    folder = tmp_path_factory.mktemp("reviewed")
    rows = [
        pair_row(2 * i, caption=f"prompt {i // 2} <b>", model_0="secret-alpha", model_1="secret-beta",
                 jpg_0=png_with_a_secret(2 * i))
        for i in range(8)
    ]  # fmt: skip
    source = write_pairs(folder / "train-0.parquet", rows)
    embed = ["--manifest", "pickapic_v2", "--models", MODELS, "--source", str(source), "--device", "cpu"]
    cli.app(["embed", *embed, "--scorers", "clip", "--run", str(folder / "run")], standalone_mode=False)
    return folder / "run"


@pytest.fixture
def run(embedded: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(embedded, tmp_path / "run"))


@contextmanager
def serving(run: Path, reviewer: str = "anna", **options: Any) -> Iterator[tuple[int, Sitting]]:
    sitting = open_sitting(Run(run), ReviewOptions(reviewer, port=0, **options))
    with closing(sitting.log), in_a_thread(make_server(sitting)) as port:
        yield port, sitting


def ask(port: int, method: str, target: str, body: object = None, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    own = {"Origin": f"http://127.0.0.1:{port}", "Content-Type": "application/json"} if method == "POST" else {}
    own |= {name.replace("_", "-"): value for name, value in headers.items()}
    text = None if body is None else json.dumps(body)
    connection.request(method, target, body=text, headers={name: value for name, value in own.items() if value})
    answer = connection.getresponse()
    found = answer.status, answer.read()
    connection.close()
    return found


def judge(port: int, choice: str, place: int | None = None) -> dict[str, Any]:
    now = json.loads(ask(port, "GET", "/state")[1])["place"] if place is None else place
    status, body = ask(port, "POST", "/judge", {"place": now, "choice": choice, "seconds": 1.25})
    assert status == 200, body
    return dict(json.loads(body))


def test_nothing_that_is_sent_tells_the_model(run: Path) -> None:
    with serving(run) as (port, sitting):
        sent = [ask(port, "GET", target)[1] for target in ("/", "/state")]
        for place in range(8):
            for side in ("left", "right"):
                status, picture = ask(port, "GET", f"/picture/{place}/{side}")
                assert (status, picture[:4]) == (200, b"\x89PNG")
                assert not Image.open(BytesIO(picture)).info
                sent.append(picture)
        columns = ("pair_id", "image_0_uid", "image_0_model", "image_1_model")
        told = {pair[name] for pair in sitting.pairs for name in columns}
        for secret in (*told, "secret"):
            assert not any(secret.encode() in one for one in sent), secret
        state = json.loads(sent[1])
        assert set(state) == {"done", "total", "place", "undo", "prompt", "ahead"}


def test_sides_are_mixed_and_as_recorded(run: Path) -> None:
    with serving(run) as (port, sitting):
        for _ in range(8):
            state = json.loads(ask(port, "GET", "/state")[1])
            pair = sitting.pairs[state["place"]]
            left = sitting.log.judged, ask(port, "GET", f"/picture/{state['place']}/left")[1]
            judge(port, "left")
            recorded = sitting.log.judged[-1]
            uid = pair[f"image_{recorded.left_side}_uid"]
            assert sitting.pictures[uid] == left[1]
        assert len({one.left_side for one in sitting.log.judged}) == 2
        assert json.loads(ask(port, "GET", "/state")[1]) == {"done": 8, "total": 8, "place": None, "undo": True}


def test_undo_and_answers_that_come_twice(run: Path) -> None:
    with serving(run) as (port, sitting):
        assert judge(port, "left")["place"] == 1
        assert judge(port, "tie", place=0)["place"] == 1  # a second answer to the first pair
        assert [one.choice for one in sitting.log.judged] == ["left"]
        assert json.loads(ask(port, "POST", "/undo", {})[1])["place"] == 0
        assert sitting.log.judged == []
        assert json.loads(ask(port, "POST", "/undo", {})[1])["place"] == 0


@pytest.mark.parametrize(
    ("target", "body", "headers", "status", "message"),
    [
        ("/judge", LEFT, {"Host": "example.org"}, 403, b"refused: another host"),
        ("/judge", LEFT, {"Origin": "http://e.org"}, 403, b"refused: another origin"),
        ("/judge", LEFT, {"Origin": ""}, 403, b"refused: no origin"),
        ("/judge", LEFT, {"Sec_Fetch_Site": "cross-site"}, 403, b"refused: another site"),
        ("/judge", LEFT, {"Content_Type": "text/plain"}, 400, b"a short JSON document is needed"),
        ("/judge", LEFT | {"choice": "both"}, {}, 400, b"choice: one of left, right, tie, both_bad"),
        ("/judge", LEFT | {"seconds": "x"}, {}, 400, b"seconds: a number from 0"),
        ("/judge", LEFT | {"seconds": -1}, {}, 400, b"seconds: a number from 0"),
        ("/judge", [1], {}, 400, b"a JSON object is needed"),
        ("/judge", {"x": "y" * 20_000}, {}, 400, b"a short JSON document is needed"),
        ("/other", {}, {}, 404, b"no such page"),
    ],
)  # fmt: skip
def test_what_no_page_of_ours_sends_changes_nothing(
    run: Path, target: str, body: object, headers: dict[str, str], status: int, message: bytes
) -> None:
    with serving(run) as (port, sitting):
        assert ask(port, "POST", target, body, **headers) == (status, message)
        assert sitting.log.judged == []


@pytest.mark.parametrize(
    "target", ["/picture/8/left", "/picture/0/middle", "/picture/-1/left", "/run.toml", "/picture/0"]
)
def test_what_is_not_there(run: Path, target: str) -> None:
    with serving(run) as (port, _):
        assert ask(port, "GET", target)[0] == 404
        assert ask(port, "PUT", "/state")[0] == 405


def test_only_loopback_listens(run: Path) -> None:
    with serving(run) as (port, _), socket.socket() as probe:
        probe.settimeout(2)
        assert probe.connect_ex(("127.0.0.1", port)) == 0


def test_judgements_become_a_data_set_that_is_embedded_ranked_and_exported(
    run: Path, curate: Curate, tmp_path: Path
) -> None:
    for reviewer, choices in (("anna", ["left"] * 7 + ["tie"]), ("ben", ["right", "left", "left", "both_bad"])):
        with serving(run, reviewer) as (port, _):
            for choice in choices:
                judge(port, choice)
    done = curate("review", "--run", run, "--report", "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    counted = ("reviewer", "judged", "ties", "both_bad", "left_share")
    assert [tuple(one[name] for name in counted) for one in report["reviewers"]] == [
        ("anna", 8, 1, 0, 1.0), ("ben", 4, 0, 1, pytest.approx(2 / 3)),
    ]  # fmt: skip
    assert report["agreement"][0]["pairs"] == 4  # the same pairs first, whoever judges
    (verdict,) = report["verdicts"]
    assert (verdict["judgements"], verdict["ties"]) == (12, 2)
    assert {verdict["model"], verdict["against"]} == {"secret-alpha", "secret-beta"}
    table = pq.read_table(run / "review" / "judgements.parquet")
    assert table.schema.equals(REVIEWED_PAIRS)
    rows = table.to_pylist()
    assert [row["both_bad"] for row in rows] == [False] * 11 + [True]
    assert len(list((run / "review" / "images").iterdir())) == 16  # each picture once, its own bytes
    first = rows[0]
    assert SECRET.encode() in (run / "review" / first["image_0_path"]).read_bytes()
    assert verdict["model"] == "secret-alpha"
    won = sum(row["label_0"] for row in rows)
    assert verdict["win_rate"] == pytest.approx(won / 12)

    again = tmp_path / "again"
    options = ("--models", MODELS, "--scorers", "clip", "--run", again)
    done = curate("embed", "--manifest", run / "review" / "manifest.toml", *options)
    assert done.code == 0, done.err
    assert done.out.splitlines()[0] == "rows    12 = 12 pairs, of them 2 ties"
    assert curate("rank", "--run", again, "--psi", "clip", "--top", "1.0").code == 0
    exported = curate("export-shards", "--run", again, "--json")
    assert exported.code == 0, exported.err
    assert json.loads(exported.out)["pairs"] == 10
    compared = json.loads(curate("compare", "--run", again, "--json").out)
    assert compared["pairs"] == 8


def test_a_report_in_words(run: Path, curate: Curate) -> None:
    with serving(run) as (port, _):
        judge(port, "tie")
    lines = curate("review", "--run", run, "--report").out.splitlines()
    assert lines[1].split() == ["anna", "1", "1", "0", "-", "1.2", "s"]
    assert " ".join(lines[2].split()) == (
        "secret-alpha against secret-beta: 50.0 % 50.0 - 50.0 % 0/1/0 of 1 judgements over 1 prompts, "
        "sign test p = 1.0000"
    )


def test_refusals(run: Path, curate: Curate, tmp_path: Path) -> None:
    for arguments, code, message in (
        (["--report"], 1, f"nobody has reviewed {run} yet; run `curate review --run {run} --reviewer NAME`"),
        ([], 2, "--reviewer: say who judges, so that several people's judgements stay apart"),
        (["--reviewer", "a/b"], 2, "--reviewer a/b: letters, digits, '_', '.' and '-' only, a letter or digit first"),
        (["--reviewer", "a", "--model", "x"], 1, f"{run} has no pair of two different models to review"),
    ):
        stopped = curate("review", "--run", run, *arguments)
        assert (stopped.code, stopped.out) == (code, "")
        assert stopped.err.startswith(f"curate: {message}")
    stopped = curate("review", "--run", tmp_path / "none", "--reviewer", "a")
    assert stopped.err.startswith(f"curate: no run in {tmp_path / 'none'}")


def start(run: Path) -> tuple[subprocess.Popen[str], int]:
    command = [sys.executable, "-m", "curate.cli", "review", "--run", str(run), "--reviewer", "anna", "--port", "0"]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests in the background ignore it
    )
    assert process.stdout is not None
    address = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/\n", process.stdout.readline())
    assert address is not None
    return process, int(address[1])


def test_a_kill_loses_no_judgement_and_ctrl_c_writes_the_data_set(run: Path) -> None:
    process, port = start(run)
    with process:
        judge(port, "left")
        judge(port, "tie")
        process.kill()
    process, port = start(run)
    with process:
        assert json.loads(ask(port, "GET", "/state")[1])["done"] == 2
        judge(port, "right")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 0
    assert out.splitlines()[0] == "anna: 3 of 8 pairs judged"
    assert err.splitlines()[-1].startswith("anna: 2 of 8 pairs are judged; every judgement is kept at once")
    rows = pq.read_table(run / "review" / "judgements.parquet").to_pylist()
    assert [row["place"] for row in rows] == [0, 1, 2]
    assert [row["label_0"] == 0.5 for row in rows] == [False, True, False]


def wait_for_pair(page: Any, done: int) -> None:
    """Until the page takes the next judgement: before its pictures are there, keys and clicks count nothing."""
    until(page, f"document.querySelector('[aria-busy=false] #progress')?.textContent === '{done} of 8'")


def check_nothing_counts_before_the_pictures_are_there(page: Any, sitting: Sitting) -> None:
    """From the first pair to the second, whose pictures are held back, and back to the first by an undo."""
    held: list[Any] = []

    def hold(route: Any) -> None:
        held.append(route)

    page.route("**/picture/1/left", hold)
    page.reload()
    wait_for_pair(page, 0)
    page.keyboard.press("1")
    until(page, "document.querySelector('#progress').textContent === '1 of 8'")
    for key in ("1", "2", "z"):
        page.keyboard.press(key)
    page.locator("[data-choice=left]").click()
    page.wait_for_timeout(200)  # in which a request would have come
    assert page.locator("body").get_attribute("aria-busy") == "true"
    assert len(sitting.log.judged) == 1
    for route in held:
        route.continue_()
    page.unroute("**/picture/1/left")
    wait_for_pair(page, 1)
    page.keyboard.press("z")
    wait_for_pair(page, 0)


@needs_browser
def test_in_a_browser_by_keys(run: Path) -> None:
    with serving(run) as (port, sitting), browser_page(viewport={"width": 1280, "height": 800}) as page:
        page.goto(f"http://127.0.0.1:{port}/")
        wait_for_pair(page, 0)
        check_nothing_counts_before_the_pictures_are_there(page, sitting)
        for key, done in (("1", 1), ("2", 2), ("t", 3), ("z", 2), ("T", 3)):
            page.keyboard.press(key)
            wait_for_pair(page, done)
            assert page.evaluate("[...document.querySelectorAll('#pair img')].every(i => i.naturalWidth > 0)")
        assert [one.choice for one in sitting.log.judged] == ["left", "right", "tie"]
        assert page.locator("#prompt").inner_text() == sitting.pairs[3]["prompt"]
        assert "secret" not in page.content()
        assert not any("secret" in url or "image" in url for url in page.asked)
        page.close()  # closed mid-way
    with serving(run) as (port, sitting), browser_page(viewport={"width": 390, "height": 844}) as page:
        page.goto(f"http://127.0.0.1:{port}/")
        wait_for_pair(page, 3)
        assert overflow_px(page) == 0
        boxes = [page.locator(one).bounding_box() for one in ("#left", "#right", "#keys")]
        assert boxes[0]["width"] == boxes[1]["width"] > 370  # one above the other, and the keys still in sight
        assert boxes[0]["height"] + boxes[1]["height"] > 0.6 * 844
        assert boxes[2]["y"] + boxes[2]["height"] < 844
        page.keyboard.press("b")
        wait_for_pair(page, 4)
        for done in range(5, 9):
            page.locator("[data-choice=right]").click()
            wait_for_pair(page, done)
        assert page.locator("#prompt").inner_text() == "All judged. Thank you."
        assert page.locator("#pair").is_hidden()
        page.keyboard.press("1")  # nothing is left to judge
        assert len(sitting.log.judged) == 8
        assert all(one.seconds >= 0 for one in sitting.log.judged)
        assert pq.read_table(run / "review" / "judgements.parquet").num_rows == 8  # written with the last one
