"""Everything that takes a path takes s3://: a real server on loopback, its failures, and files that change on it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tomli_w

from curate.errors import SourceError
from curate.models.weights import weights_file
from curate.sources.manifest import load_manifest
from curate.sources.opening import open_source
from curate.sources.parquet import Location, Source
from curate.storage import files
from curate.storage.files import fingerprint, retrying
from schemas.remote import is_transient
from tests.curate.builders import MODELS, Outcome, pair_row, picture_bytes, write_pairs
from tests.curate.object_store import BUCKET, Gate

Curate = Callable[..., Outcome]
SOURCE = f"s3://{BUCKET}/source/train-0.parquet"


def put(local: Path, url: str) -> str:
    fsspec.filesystem("s3").put_file(str(local), url)
    return url


def opened(*urls: str) -> Source:
    return open_source(load_manifest("pickapic_v2"), None, list(urls))


@pytest.fixture
def source_url(gate: Gate, source_file: Path) -> str:
    return put(source_file, SOURCE)


def embed(source: object, run: Path) -> list[object]:
    shared = ["--manifest", "pickapic_v2", "--models", MODELS, "--device", "cpu", "--scorers", "clip"]
    return ["embed", *shared, "--source", source, "--run", run]


def test_from_s3_to_s3(curate: Curate, gate: Gate, source_url: str, source_file: Path, tmp_path: Path) -> None:
    """Embed a source there, export there: the same tars as from and to this machine; then verify them there."""
    remote, local = tmp_path / "remote", tmp_path / "local"
    for run, source in ((remote, f"s3://{BUCKET}/source/*.parquet"), (local, source_file)):
        assert curate(*embed(source, run)).code == 0
        assert curate("rank", "--run", run, "--top", "8", "--psi", "clip").code == 0
    output = f"s3://{BUCKET}/shards"
    done = curate("export-shards", "--run", remote, "--output", output, "--pairs-per-shard", 3)
    assert done.code == 0, done.err
    assert curate("export-shards", "--run", local, "--pairs-per-shard", 3).code == 0
    filesystem = fsspec.filesystem("s3")
    filesystem.invalidate_cache()
    names = sorted(name.rpartition("/")[2] for name in filesystem.ls(output, detail=False))
    assert names == sorted(path.name for path in (local / "shards").iterdir())
    for name in names[1:]:
        assert filesystem.cat_file(f"{output}/{name}") == (local / "shards" / name).read_bytes(), name
    assert not list((remote / ".export").iterdir())

    checked = json.loads(curate("verify", output, "--run", remote, "--json").out)
    assert (checked["sound"], checked["checked"]["compared with the ranking"]) == (True, 8)
    layout = ["export-for", "folders", "--reencode", "png"]
    done = curate(*layout, "--run", remote, "--output", f"s3://{BUCKET}/pairs")
    assert done.code == 0, done.err
    assert curate(*layout, "--run", local).code == 0
    here = local / "exports/default-folders"
    kept = [str(path.relative_to(here)) for path in here.rglob("*.*") if path.suffix != ".json"]
    there = filesystem.find(f"s3://{BUCKET}/pairs")
    assert sorted([*kept, "dataset_config.json", "export.json"]) == [name.partition("/pairs/")[2] for name in there]
    for name in kept:
        assert filesystem.cat_file(f"{BUCKET}/pairs/{name}") == (here / name).read_bytes(), name
    assert not list((remote / ".export").iterdir())

    gate.requests.clear()
    again = curate("export-shards", "--run", remote, "--output", output, "--pairs-per-shard", 3, "--json")
    assert json.loads(again.out)["kept_shards"] == 3
    assert not [path for method, path, _ in gate.requests if method == "PUT" and path.endswith(".tar")]


def test_interrupted_upload_goes_on(
    curate: Curate, gate: Gate, source_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second tar does not get through: no index; the next run uploads what is missing and reads no image again."""
    run, output = tmp_path / "run", f"s3://{BUCKET}/interrupted"
    assert curate(*embed(source_url, run)).code == 0
    assert curate("rank", "--run", run, "--top", "9", "--psi", "clip").code == 0
    arguments = ("export-shards", "--run", run, "--output", output, "--pairs-per-shard", 3, "--workers", 1)
    gate.fail(*[503] * 50, path="pairs-000001.tar", method="PUT")
    stopped = curate(*arguments)
    assert stopped.code == 1
    assert f"curate: cannot write {output}/pairs-000001.tar: " in stopped.err
    assert stopped.err.endswith("; run again to go on\n")
    gate.fail()
    gate.requests.clear()
    assert curate(*arguments).code == 0
    puts = [path.rpartition("/")[2].partition("?")[0] for method, path, _ in gate.requests if method == "PUT"]
    assert "pairs-000001.tar" in puts
    assert "pairs-000000.tar" not in puts
    assert puts[-1] == "shards.json"
    assert not [path for method, path, _ in gate.requests if method == "GET" and "train-0.parquet" in path]
    assert curate("verify", output).code == 0


@pytest.mark.parametrize("failures", [(500, 503), (429, 500), (0, 0)])
def test_failures_that_pass_are_tried_again_and_said(
    gate: Gate, source_url: str, failures: tuple[int, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    source = opened(source_url)
    assert sum(table.num_rows for table in source.key_rows()) == 20
    gate.fail(*failures, path="train-0.parquet")
    places = [Location(source_url, 2, 1, side) for side in (0, 1)]
    assert source.image_bytes(places) == {place: picture_bytes(11 + place.side) for place in places}
    said = capsys.readouterr().err
    assert gate.failures == []
    if 0 not in failures:  # the client itself takes up a connection that broke
        assert said.count("trying again in 0 s") == 2
        assert source_url in said


def test_failures_that_last_stop_with_the_files_name(gate: Gate, source_url: str) -> None:
    source = opened(source_url)
    list(source.key_rows())
    gate.fail(*[500] * 50, path="train-0.parquet")
    with pytest.raises(SourceError) as caught:
        source.image_bytes([Location(source_url, 0, 0, 0)])
    assert source_url in str(caught.value)


@pytest.mark.parametrize("status", [403, 404])
def test_refusals_are_not_tried_again(gate: Gate, source_url: str, status: int) -> None:
    gate.fail(*[status] * 50, path="train-0.parquet")
    with pytest.raises(SourceError):
        list(opened(source_url).key_rows())
    assert len(gate.failures) >= 48  # opening asks once for the size and once for the end of the file, at most


def test_a_file_that_changes_under_a_run(curate: Curate, gate: Gate, source_url: str, tmp_path: Path) -> None:
    """Same name, same size, another ETag: a resumed run stops; so does one that is reading."""
    run = tmp_path / "run"
    assert curate(*embed(source_url, run)).code == 0
    source = opened(source_url)
    list(source.key_rows())
    other = write_pairs(tmp_path / "other.parquet", [pair_row(i, ranking_id=99 - i) for i in range(20)])
    before = fingerprint(source_url)
    assert set(before) == {"size", "etag"}
    put(other, source_url)
    assert fingerprint(source_url) != before
    stopped = curate(*embed(source_url, run))
    assert stopped.code == 1
    assert f"{run} was made under other settings: files.{source_url}." in stopped.err
    with pytest.raises(SourceError) as caught:
        source.image_bytes([Location(source_url, 0, 0, 0)])
    assert str(caught.value).startswith(f"{source_url} changed since it was embedded: ")


def test_only_the_bytes_that_are_needed_travel(gate: Gate, tmp_path: Path) -> None:
    """Of a file of 2.6 MB one row group's one column is asked for: its footer, then its bytes, in a few requests."""
    random = np.random.default_rng(0)
    rows = [pair_row(i, jpg_0=random.bytes(60_000), jpg_1=random.bytes(60_000)) for i in range(20)]
    local = write_pairs(tmp_path / "large.parquet", rows)
    url = put(local, f"s3://{BUCKET}/large.parquet")
    source = opened(url)
    gate.requests.clear()
    found = source.image_bytes([Location(url, 1, 2, 0)])
    assert list(found.values()) == [rows[7]["jpg_0"]]
    read = [[int(end) for end in one.removeprefix("bytes=").split("-")] for one in gate.ranges("large.parquet")]
    assert len(read) <= 3
    size = sum(last - first + 1 for first, last in read)
    assert size < 5 * 60_000 + 100_000 < local.stat().st_size / 5


def test_image_paths_on_s3(gate: Gate, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """URLs, and paths beside a Parquet file there; an absent one has no bytes; an outage that passes is waited for."""
    filesystem = fsspec.filesystem("s3")
    for name in ("beside/images/one.png", "two.png"):
        filesystem.pipe_file(f"{BUCKET}/{name}", name.encode())
    rows = {"p": ["a", "b"], "a": ["images/one.png", "images/none.png"], "b": [f"s3://{BUCKET}/two.png"] * 2}
    pq.write_table(pa.table(rows), tmp_path / "p.parquet")
    url = put(tmp_path / "p.parquet", f"s3://{BUCKET}/beside/p.parquet")
    manifest = tmp_path / "mine.toml"
    columns = {"prompt": "p", "image_0_path": "a", "image_1_path": "b"}
    manifest.write_text(tomli_w.dumps({"splits": {"train": {"files": [url]}}, "columns": columns}))
    source = open_source(load_manifest(str(manifest)), None)
    gate.fail(503, path="two.png")
    found = source.image_bytes([Location(url, 0, row, side) for row in (0, 1) for side in (0, 1)])
    values = {(place.row, place.side): data for place, data in found.items()}
    assert values == {(0, 0): b"beside/images/one.png", (0, 1): b"two.png", (1, 0): None, (1, 1): b"two.png"}
    assert "two.png: " in capsys.readouterr().err


def test_weights_by_url(gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    fsspec.filesystem("s3").pipe_file(f"{BUCKET}/weights/head.pth", b"weights")
    assert weights_file(f"s3://{BUCKET}/weights/head.pth", tmp_path).read_bytes() == b"weights"


def test_file_urls(curate: Curate, source_file: Path, tmp_path: Path) -> None:
    """file:// is this machine by another name, in and out."""
    run = tmp_path / "run"
    assert curate(*embed(f"file://{source_file}", run)).code == 0
    assert curate("rank", "--run", run, "--psi", "clip", "--top", "4").code == 0
    assert curate("export-shards", "--run", run, "--output", f"file://{tmp_path}/out").code == 0
    assert curate("verify", f"file://{tmp_path}/out", "--run", run).code == 0
    assert (tmp_path / "out" / "shards.json").is_file()


class RefusedError(Exception):
    """As aiohttp, gcsfs and httpx carry it."""

    def __init__(self, status: int) -> None:
        self.status = status


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (ConnectionResetError("reset"), True),
        (TimeoutError(), True),
        (RefusedError(500), True),
        (RefusedError(429), True),
        (RefusedError(404), False),
        (FileNotFoundError(2, "No such file"), False),
        (PermissionError(13, "Permission denied"), False),
        (OSError(116, "Stale file handle"), True),
        (OSError(28, "No space left on device"), False),
        (ValueError("not this"), False),
    ],
)
def test_what_passes_and_what_does_not(error: Exception, transient: bool) -> None:
    assert is_transient(error) is transient
    outer = RuntimeError("outer")
    outer.__cause__ = error
    assert is_transient(outer) is transient


def test_retries_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[Any] = []
    monkeypatch.setattr(files.time, "sleep", waits.append)

    def failing() -> None:
        raise ConnectionResetError("reset")

    with pytest.raises(ConnectionResetError):
        retrying(failing, "a file")
    assert waits == list(files.RETRY_WAITS_SEC)
