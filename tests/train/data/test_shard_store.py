"""Shards at a URL: fetched once, checked, gone on with, and each failure says what to do. Real servers on loopback."""

import json
import resource
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import fsspec
import pytest

from schemas.shards import SHARD_INDEX
from tests.curate.object_store import BUCKET, object_store
from tests.curate.web import Web, web_server
from tests.train import tiny
from tests.train.conftest import Train
from train.data import shard_store
from train.data.pairs import read_pairs
from train.data.shard_store import fetched
from train.errors import ShardError, StorageError, TrainError
from train.training.stage import TrainOptions

TARS = ("pairs-000000.tar", "pairs-000001.tar")


@pytest.fixture
def web(tmp_path: Path, shards: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """Serves the six pairs under /shards, and as a data set of the hub."""
    from huggingface_hub import close_session, constants

    monkeypatch.setattr(shard_store, "RETRY_WAITS_SEC", (0.0, 0.0))
    monkeypatch.setattr("huggingface_hub.utils._http.time", SimpleNamespace(sleep=lambda seconds: None))
    with web_server() as server:
        files = {path.name: path.read_bytes() for path in shards.iterdir()}
        server.files |= {f"/shards/{name}": data for name, data in files.items()}
        server.repositories["datasets/anna/boxes"] = {f"top/{name}": data for name, data in files.items()}
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield server
        close_session()
        fsspec.get_filesystem_class("hf").clear_instance_cache()


def refused(url: str, store: Path, kind: type[TrainError] = ShardError) -> str:
    with pytest.raises(kind) as caught:
        fetched(url, store, verify=True)
    return str(caught.value)


def same(folder: Path, shards: Path) -> bool:
    """Whether all files are those of the export, and nothing is left beside them but the lock."""
    names = {path.name for path in folder.iterdir()} - {".lock"}
    return {name: (folder / name).read_bytes() for name in names} == {
        path.name: path.read_bytes() for path in shards.iterdir()
    }


def test_shards_at_a_url_are_fetched_once_and_trained_on(web: Web, shards: Path, tmp_path: Path, train: Train) -> None:
    url, store = f"{web.url}/shards/", tmp_path / "store"
    done = train("run", "--shards", url, "--shard-store", store, "--preset", "demo", "--dry-run", "--json")
    assert (done.code, done.json()["pairs"]) == (0, 6), done.err
    (folder,) = store.iterdir()
    assert same(folder, shards)
    assert fetched(url, store, verify=True) == folder
    assert [web.asked(f"GET .*{tar}") for tar in TARS] == [1, 1]
    assert [image.read() for image in read_pairs(folder).images] == [one.read() for one in read_pairs(shards).images]


def test_the_hub_and_s3_serve_them_too(web: Web, shards: Path, tmp_path: Path) -> None:
    assert same(fetched("hf://datasets/anna/boxes/top", tmp_path / "hub", verify=True), shards)
    with object_store() as gate:
        filesystem = fsspec.filesystem("s3")
        filesystem.put(f"{shards}/", f"{BUCKET}/shards/", recursive=True)
        gate.fail(503, 0, path="pairs-000001.tar")
        assert same(fetched(f"s3://{BUCKET}/shards", tmp_path / "s3", verify=True), shards)
        gate.fail(403, 403, 403, path=SHARD_INDEX)
        said = refused(f"s3://{BUCKET}/shards", tmp_path / "s3")
    assert said.startswith(f"s3://{BUCKET}/shards/shards.json cannot be fetched: ")


def test_several_at_once_fetch_once(web: Web, shards: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(fetched, f"{web.url}/shards", tmp_path, verify=True) for _ in range(4)]
    assert {one.result() for one in waiting} == {next(tmp_path.iterdir())}
    assert [web.asked(f"GET .*{tar}") for tar in TARS] == [1, 1]


def test_a_fetch_that_was_cut_goes_on(web: Web, shards: Path, tmp_path: Path) -> None:
    web.fail(0, TARS[1], times=99)
    said = refused(f"{web.url}/shards", tmp_path)
    assert said.startswith(f"{web.url}/shards/{TARS[1]} cannot be fetched: ClientPayloadError: ")
    assert said.endswith("; run again to go on.")
    (folder,) = tmp_path.iterdir()
    assert {path.name for path in folder.iterdir()} == {TARS[0], ".lock"}
    web.failures.clear()
    web.requests.clear()
    assert same(fetched(f"{web.url}/shards", tmp_path, verify=True), shards)
    assert [web.asked(f"GET .*{tar}") for tar in TARS] == [0, 1]


def test_what_was_damaged_here_is_fetched_again(web: Web, shards: Path, tmp_path: Path) -> None:
    folder = fetched(f"{web.url}/shards", tmp_path, verify=True)
    tar = bytearray((folder / TARS[0]).read_bytes())
    tar[700] ^= 1
    (folder / TARS[0]).write_bytes(tar)
    assert not same(fetched(f"{web.url}/shards", tmp_path, verify=False), shards)
    assert same(fetched(f"{web.url}/shards", tmp_path, verify=True), shards)


def test_an_export_that_was_replaced_has_a_folder_of_its_own(web: Web, shards: Path, tmp_path: Path) -> None:
    before = fetched(f"{web.url}/shards", tmp_path / "store", verify=True)
    other = tiny.write_shards(tmp_path / "other", tiny.samples(3))
    web.files = {f"/shards/{path.name}": path.read_bytes() for path in other.iterdir()}
    assert same(fetched(f"{web.url}/shards", tmp_path / "store", verify=True), other)
    assert same(before, shards)


def test_a_tar_that_is_not_the_one_that_the_index_describes(web: Web, tmp_path: Path) -> None:
    name = f"/shards/{TARS[1]}"
    web.files[name] = web.files[name][:-1] + b"x"
    assert refused(f"{web.url}/shards", tmp_path) == (
        f"{web.url}{name} is not the file that shards.json beside it describes: its sha256 differs; export anew, or"
        " copy the tars there again."
    )
    del web.files[name]
    assert refused(f"{web.url}/shards", tmp_path) == (
        f"{web.url}{name} cannot be fetched: FileNotFoundError: {web.url}{name}; shards.json lists it: export anew, or"
        " copy the tars there again."
    )
    assert not list(tmp_path.rglob(TARS[1]))


def test_shards_that_are_not_there_or_not_for_us(web: Web, tmp_path: Path) -> None:
    assert refused(f"{web.url}/none", tmp_path) == (
        f"{web.url}/none/shards.json cannot be fetched: FileNotFoundError: {web.url}/none/shards.json; give the URL of"
        " a folder with shards.json."
    )
    for status, words in ((401, "401 Unauthorized"), (403, "403 Forbidden")):
        web.fail(status, SHARD_INDEX)
        assert refused(f"{web.url}/shards", tmp_path).startswith(
            f"{web.url}/shards/shards.json cannot be fetched: the server answers {words}: "
        )
    web.files["/none/splits.json"] = json.dumps({"splits": [{"name": "train"}]}).encode()
    assert refused(f"{web.url}/none", tmp_path) == (
        f"{web.url}/none has no shards.json: it holds splits; give the URL of one of them, such as"
        f" {web.url}/none/train."
    )
    assert refused("nowhere://bucket/shards", tmp_path).startswith("nowhere://bucket/shards/shards.json cannot be")
    assert not list(tmp_path.iterdir())


def test_nothing_is_written_outside_the_store(web: Web, tmp_path: Path) -> None:
    index = json.loads(web.files["/shards/shards.json"])
    index["shards"][0]["file"] = "../out.tar"
    web.files |= {"/shards/shards.json": json.dumps(index).encode(), "/out.tar": web.files[f"/shards/{TARS[0]}"]}
    assert "lists `../out.tar`, which is no name of a file beside it" in refused(f"{web.url}/shards", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_full_disk(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        said = refused(f"{web.url}/shards", tmp_path, StorageError)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    (folder,) = tmp_path.iterdir()
    assert said.startswith(f"{folder}/pairs-00000")
    assert said.endswith(".tar could not be written (File too large); make room or choose another folder.")
    assert {path.name for path in folder.iterdir()} == {".lock"}
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
    assert "and its disk has 10; make room, or name a folder of another disk by --shard-store" in refused(
        f"{web.url}/shards", tmp_path, StorageError
    )


def test_where_a_run_on_shards_at_a_url_lies(monkeypatch: pytest.MonkeyPatch, train: Train, shards: Path) -> None:
    monkeypatch.setenv("PAIRSIEVE_RUN", "work")
    for given in ("s3://bucket/shards", Path("s3://bucket/shards")):
        options = TrainOptions(shards=given)
        found = (options.shards_url, options.shards_folder, options.output_folder)
        assert found == ("s3://bucket/shards", Path("work"), Path("work/trained"))
    refusal = train("run", "--shards", shards, "--shard-store", "store", "--preset", "demo", "--dry-run")
    assert (refusal.code, refusal.err) == (
        2,
        "train: --shard-store is for shards at a URL, and --shards names a folder; leave it out.\n",
    )
