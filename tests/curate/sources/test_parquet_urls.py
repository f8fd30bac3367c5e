"""Files and pictures of a web server and of the hub: outages are waited for, and few requests are made."""

import threading
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tomli_w

from curate.errors import SourceError
from curate.sources.files import check_unchanged
from curate.sources.manifest import load_manifest
from curate.sources.opening import open_source
from curate.sources.parquet import Location, Source
from curate.storage import files
from tests.curate.builders import pair_row, picture_bytes, write_pairs
from tests.curate.web import Web

COLUMNS = {"prompt": "p", "image_0_path": "a", "image_1_path": "b"}


def pictures(web: Web, folder: Path, *urls: str) -> Source:
    """A source whose pictures 0 lie at the URLs."""
    pq.write_table(
        pa.table({"p": ["a"] * len(urls), "a": list(urls), "b": ["none.png"] * len(urls)}), folder / "p.parquet"
    )
    manifest = folder / "mine.toml"
    manifest.write_text(tomli_w.dumps({"splits": {"train": {"files": ["p.parquet"]}}, "columns": COLUMNS}))
    return open_source(load_manifest(str(manifest)), None)


def read(source: Source) -> list[bytes | None]:
    rows = source.image_bytes(
        [Location(source.files[0], 0, row, 0) for row in range(pq.read_metadata(source.files[0]).num_rows)]
    )
    return [rows[place] for place in sorted(rows)]


@pytest.mark.parametrize("status", [0, 408, 425, 429, 500, 503])
def test_an_outage_that_passes_costs_no_picture(web: Web, tmp_path: Path, status: int) -> None:
    """Whatever is asked first: a server that fails HEAD and once GET, and one that fails GET alone."""
    web.files["/0"] = picture_bytes(0)
    source = pictures(web, tmp_path, f"{web.url}/0")
    web.fail(status, "/0", times=2)
    assert read(source) == [picture_bytes(0)]


@pytest.mark.parametrize("status", [429, 503])
def test_an_outage_that_stays_stops_and_says_so(web: Web, tmp_path: Path, status: int) -> None:
    source = pictures(web, tmp_path, f"{web.url}/0")
    web.fail(status, "/0", times=99)
    with pytest.raises(
        SourceError, match=f"{web.url}/0 cannot be read: the server answers {status} .*; run again to go on"
    ):
        read(source)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1:1/0", "run again to go on"),
        ("http://no.invalid/0", "the server's name cannot be resolved; is there a network\\?; run again to go on"),
    ],
)
def test_nobody_answers(web: Web, tmp_path: Path, url: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SourceError, match=words):
        read(pictures(web, tmp_path, url))
    assert capsys.readouterr().err.count("trying again") == len(files.RETRY_WAITS_SEC)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 451])
def test_a_refusal_for_good_is_a_missing_picture(web: Web, tmp_path: Path, status: int) -> None:
    web.files["/1"] = picture_bytes(1)
    web.fail(status, "/0", times=99)
    source = pictures(web, tmp_path, f"{web.url}/0", f"{web.url}/1")
    assert read(source) == [None, picture_bytes(1)]
    assert web.requests.count("GET /0") == 1
    assert web.asked("HEAD") == 0  # the picture is all that is asked for


def test_a_path_that_leads_nowhere_is_a_missing_picture(web: Web, tmp_path: Path) -> None:
    """Longer than a file system takes, and a link that leads to itself."""
    (tmp_path / "loop.png").symlink_to("loop.png")
    assert read(pictures(web, tmp_path, "x" * 300 + ".png", "loop.png")) == [None, None]


def test_a_server_says_how_long_to_wait(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(files.time, "sleep", waits.append)
    web.files["/0"] = picture_bytes(0)
    web.fail(429, "/0", Retry_After="7")
    web.fail(429, "/0", RateLimit='"api";r=0;t=120')
    web.fail(503, "/0", Retry_After="Wed, 21 Oct 2026 07:28:00 GMT")
    assert read(pictures(web, tmp_path, f"{web.url}/0")) == [picture_bytes(0)]
    assert waits == [7.0, 120.0, 0.0]


def test_a_parquet_file_by_https(web: Web, tmp_path: Path) -> None:
    """An outage of it is waited for, and is not taken for an absent file; its bytes are never read in whole."""
    local = write_pairs(tmp_path / "x.parquet", [pair_row(i) for i in range(40)])
    web.files["/x.parquet"] = local.read_bytes()
    web.fail(503, "/x.parquet", times=3)
    source = open_source(load_manifest("pickapic_v2"), None, [f"{web.url}/x.parquet"])
    assert sum(table.num_rows for table in source.key_rows()) == 40
    assert "GET /x.parquet" in web.requests
    fsspec.get_filesystem_class("http").clear_instance_cache()
    web.fail(503, "/x.parquet", times=99)
    with pytest.raises(SourceError, match="cannot be read: the server answers 503"):
        check_unchanged(f"{web.url}/x.parquet", 1)
    web.failures.clear()
    del web.files["/x.parquet"]
    with pytest.raises(SourceError, match="is not there; correct --source, or put it back"):
        check_unchanged(f"{web.url}/x.parquet", 1)


def test_the_hub_is_asked_for_one_listing(web: Web, tmp_path: Path) -> None:
    """However many files there are, however often each is looked at, and by how many threads."""
    data = write_pairs(tmp_path / "x.parquet", [pair_row(i) for i in range(8)]).read_bytes()
    names = [f"data/train-{number:05d}.parquet" for number in range(12)]
    web.repositories["datasets/owner/pairs"] = dict.fromkeys(names, data) | {"README.md": b"a card"}
    source = open_source(load_manifest("pickapic_v2"), None, ["hf://datasets/owner/pairs/data/train-*.parquet"])
    assert [file.rpartition("/")[2] for file in source.files] == [name.removeprefix("data/") for name in names]
    source.fingerprints()
    assert sum(table.num_rows for table in source.key_rows()) == 8 * len(names)

    def look() -> None:
        source.image_bytes([Location(file, 0, 0, 0) for file in source.files])
        check_unchanged(source.files[0], source.fingerprints()[source.files[0]])

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert web.asked("/tree/") <= 2
    assert web.asked("/api/") <= 4


def test_a_file_of_the_hub_that_changed_is_noticed_with_the_next_listing(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files_of = web.repositories.setdefault("datasets/owner/pairs", {})
    files_of["data/x.parquet"] = write_pairs(tmp_path / "x.parquet", [pair_row(i) for i in range(8)]).read_bytes()
    source = open_source(load_manifest("pickapic_v2"), None, ["hf://datasets/owner/pairs/data/*.parquet"])
    source.fingerprints()
    files_of["data/x.parquet"] = write_pairs(tmp_path / "x.parquet", [pair_row(i) for i in range(9)]).read_bytes()
    monkeypatch.setattr(files, "HUB_LISTING_SEC", 0.0)
    with pytest.raises(SourceError, match="changed since it was embedded"):
        next(source.key_rows())


def test_a_hub_that_is_asked_too_often_is_waited_for(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(files.time, "sleep", lambda seconds: None)
    data = write_pairs(tmp_path / "x.parquet", [pair_row(i) for i in range(8)]).read_bytes()
    web.repositories["datasets/owner/pairs"] = {"data/x.parquet": data}
    web.fail(429, "/api/datasets", RateLimit='"api";r=0;t=90')
    source = open_source(load_manifest("pickapic_v2"), None, ["hf://datasets/owner/pairs/data/*.parquet"])
    assert len(source.files) == 1
    said = capsys.readouterr().err
    assert "the server answers 429 Too Many Requests" in said
    assert "trying again in 90 s" in said
