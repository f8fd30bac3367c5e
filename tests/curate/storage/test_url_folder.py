"""A folder by URL has the face of a folder of this machine: whole files, the first table stays, sizes and hashes."""

import errno
import hashlib
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pytest

from curate.errors import RunError, UploadError, UsageError
from curate.storage.folder import Folder, LocalFolder
from curate.storage.run import RunFiles, part_rows, rows_of_parts, sound_parts, write_part, write_plan
from curate.storage.url_folder import UrlFolder, folder_at
from schemas.remote import already_there, is_transient, not_implemented
from tests.curate.builders import claims_at_once

SCHEMA = pa.schema([("x", pa.int64())])
URL = "memory://bucket/run"


@pytest.fixture
def remote() -> Iterator[UrlFolder]:
    """An empty folder in memory."""
    yield UrlFolder(URL)
    filesystem = fsspec.filesystem("memory")
    if filesystem.exists("/bucket"):
        filesystem.rm("/bucket", recursive=True)


@pytest.fixture(params=["path", "url"])
def folder(request: pytest.FixtureRequest, remote: UrlFolder, tmp_path: Path) -> Folder:
    return remote if request.param == "url" else LocalFolder(tmp_path / "run")


def numbers(*values: int) -> pa.Table:
    return pa.table({"x": list(values)}, schema=SCHEMA)


def test_what_is_written_is_read(folder: Folder) -> None:
    with pytest.raises(FileNotFoundError):
        folder.read("a/b.json")
    assert (folder.size("a/b.json"), folder.names("a")) == (None, [])
    folder.write("a/b.json", b"one")
    folder.write("a/b.json", b"other")
    folder.write("a/.hidden", b"")
    folder.write("a/a.json", b"")
    assert (folder.read("a/b.json"), folder.size("a/b.json")) == (b"other", 5)
    assert folder.names("a") == ["a.json", "b.json"]
    assert folder.sha256("a/b.json") == hashlib.sha256(b"other").hexdigest()
    size = folder.sizes("a", "none")
    assert [size(name) for name in ("a/a.json", "a/b.json", "a/c.json", "none/a.json")] == [0, 5, None, None]
    folder.remove("a/b.json")
    folder.remove("a/b.json")
    assert folder.names("a") == ["a.json"]


def test_create_leaves_the_first(folder: Folder) -> None:
    with folder.alone():
        assert folder.create("run.toml", b"first")
        assert not folder.create("run.toml", b"second")
    assert folder.read("run.toml") == b"first"


def test_tables_are_read_by_file_and_by_folder(folder: Folder) -> None:
    for name, values in (("b", (3,)), ("a", (1, 2))):
        entry = folder.write_table(numbers(*values), f"t/{name}.parquet", SCHEMA)
        data = folder.read(f"t/{name}.parquet")
        assert entry == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    assert folder.read_table("t")["x"].to_pylist() == [1, 2, 3]
    assert folder.read_table("t/b.parquet", ["x"]).equals(numbers(3))


def test_a_table_has_the_same_bytes_by_path_and_by_url(remote: UrlFolder, tmp_path: Path) -> None:
    here = LocalFolder(tmp_path)
    assert here.write_table(numbers(1, 2), "t.parquet", SCHEMA) == remote.write_table(
        numbers(1, 2), "t.parquet", SCHEMA
    )
    assert here.read("t.parquet") == remote.read("t.parquet")


def test_at_a_url_the_first_table_stays_and_half_a_file_does_not(remote: UrlFolder) -> None:
    """Of values that differ in their last bits; a file that is no table of this kind makes room."""
    first = remote.write_table(numbers(1, 2), "t.parquet", SCHEMA)
    assert remote.write_table(numbers(1, 3), "t.parquet", SCHEMA) == first
    assert remote.read_table("t.parquet")["x"].to_pylist() == [1, 2]
    for other in (b"", remote.read("t.parquet")[:-9]):
        remote.write("t.parquet", other)
        assert remote.write_table(numbers(1, 3), "t.parquet", SCHEMA) != first
        assert remote.read_table("t.parquet")["x"].to_pylist() == [1, 3]
    remote.write_table(numbers(1, 2, 3), "t.parquet", SCHEMA)
    assert remote.read_table("t.parquet").num_rows == 3


def test_processes_that_write_one_part_leave_a_sound_one(remote: UrlFolder) -> None:
    """Eight at once, whose values differ: whatever the order of their files and markers, the marker is true."""
    run = RunFiles(remote)
    ready = threading.Barrier(8)

    def write(number: int) -> None:
        ready.wait()
        write_part(run, "part-00000", {"images": (numbers(number), SCHEMA), "scores": (numbers(-number), SCHEMA)})

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert part_rows(run, "part-00000") == {"images": 1, "scores": 1}


def test_a_listing_from_before_hides_no_file_of_another_process(
    remote: UrlFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As s3fs does: a file that its last listing lacks is not there, until it is told that the listing is old."""
    listed, cat = {"stale": True}, remote.filesystem.cat_file

    def cat_as_listed(path: str) -> bytes:
        if listed["stale"]:
            raise FileNotFoundError(path)
        return bytes(cat(path))

    monkeypatch.setattr(remote.filesystem, "cat_file", cat_as_listed)
    monkeypatch.setattr(remote.filesystem, "invalidate_cache", lambda path=None: listed.update(stale=False))
    assert remote.write_table(numbers(1), "t.parquet", SCHEMA) == remote.write_table(numbers(1), "t.parquet", SCHEMA)


@pytest.mark.parametrize("refusal", [TypeError("mode"), NotImplementedError(), OSError(errno.ENOSYS, "no such header")])
def test_where_nothing_creates_exclusively_it_is_asked_before(
    remote: UrlFolder, monkeypatch: pytest.MonkeyPatch, refusal: Exception
) -> None:
    """A file system that does not know `mode`, and a server that answers 501."""
    pipe = remote.filesystem.pipe_file
    if isinstance(refusal, OSError):
        refusal.__cause__ = RefusedError(501)

    def without_mode(path: str, value: bytes, **options: Any) -> None:
        if options:
            raise refusal
        pipe(path, value)

    monkeypatch.setattr(remote.filesystem, "pipe_file", without_mode)
    assert remote.create("a", b"first")
    assert not remote.create("a", b"second")
    assert remote.read("a") == b"first"


class RefusedError(Exception):
    """What an HTTP client raises."""

    def __init__(self, status: int, code: str = "") -> None:
        super().__init__(f"HTTP {status}")
        self.response = {"ResponseMetadata": {"HTTPStatusCode": status}, "Error": {"Code": code}}


def test_answers_to_an_exclusive_create() -> None:
    assert already_there(FileExistsError())
    assert already_there(RefusedError(412))
    assert not already_there(RefusedError(409))
    assert not_implemented(RefusedError(501))
    assert not is_transient(RefusedError(501))
    assert is_transient(RefusedError(409, "ConditionalRequestConflict"))


def test_a_damaged_part_makes_room_at_a_url(remote: UrlFolder, capsys: pytest.CaptureFixture[str]) -> None:
    run, names = RunFiles(remote), ["part-00000", "part-00001", "part-00002"]
    for name in names[:2]:
        write_part(run, name, {"images": (numbers(1), SCHEMA)})
    run.mark_finished({})
    remote.write("images/part-00001.parquet", b"short")
    assert rows_of_parts(run, names) == {"part-00000": {"images": 1}, "part-00001": None, "part-00002": None}
    assert sound_parts(run, names, hashed=False) == {"part-00000"}
    assert capsys.readouterr().err == (
        f"{URL}: part-00001 is damaged, not as its marker parts/part-00001.json says; it is computed again\n"
    )
    assert remote.names("images") == ["part-00000.parquet"]
    assert remote.size("embed.json") is None


def test_other_bytes_of_the_same_size_are_found_where_they_are_hashed(remote: UrlFolder) -> None:
    run = RunFiles(remote)
    write_part(run, "prompts-00000", {"prompts": (numbers(1), SCHEMA)})
    data = remote.read("prompts/prompts-00000.parquet")
    remote.write("prompts/prompts-00000.parquet", data[:-1] + b"?")
    assert sound_parts(run, ["prompts-00000"], hashed=False)
    assert not sound_parts(run, ["prompts-00000"])


def test_an_equal_plan_travels_once(remote: UrlFolder) -> None:
    run, plan = RunFiles(remote), ((numbers(1, 2), SCHEMA), (numbers(), SCHEMA))
    write_plan(run, *plan)
    created = remote.filesystem.created(remote.filesystem._strip_protocol(f"{URL}/pairs.parquet"))
    write_plan(run, *plan)
    assert remote.filesystem.created(remote.filesystem._strip_protocol(f"{URL}/pairs.parquet")) == created
    remote.write("pairs.parquet", b"short")
    write_plan(run, *plan)
    assert remote.read_table("pairs.parquet").num_rows == 2


def test_the_first_to_claim_a_run_wins(remote: UrlFolder) -> None:
    outcomes = claims_at_once(lambda settings: RunFiles(remote).claim(settings, {}))
    winner = RunFiles(remote).settings()["settings"]["number"]
    refused = [text for text in outcomes if text is not False]
    assert len(refused) == 7
    assert all(f"{URL} was made under other settings: number was {winner}, now " in str(text) for text in refused)


def test_a_run_is_claimed_again_only_under_its_settings(remote: UrlFolder) -> None:
    run = RunFiles(remote)
    assert [run.claim({"a": 1}, {}), run.claim({"a": 1}, {})] == [False, True]
    with pytest.raises(RunError, match="a was 1, now 2"):
        run.claim({"a": 2}, {})


def test_failures_name_the_url(remote: UrlFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: Any, **__: Any) -> None:
        raise PermissionError("Forbidden")

    for name in ("pipe_file", "cat_file", "info", "ls", "rm_file"):
        monkeypatch.setattr(remote.filesystem, name, forbidden)
    write = f"cannot write {URL}/a: PermissionError: Forbidden; run again to go on"
    read = f"{URL}/a cannot be read: PermissionError: Forbidden"
    attempts: list[tuple[Any, type[Exception], str]] = [
        (lambda: remote.write("a", b""), UploadError, write),
        (lambda: remote.create("a", b""), UploadError, write),
        (lambda: remote.remove("a"), UploadError, write),
        (lambda: remote.read("a"), RunError, read),
        (lambda: remote.size("a"), RunError, read),
        (lambda: remote.names("a"), RunError, read),
    ]
    for attempt, kind, message in attempts:
        with pytest.raises(kind) as caught:
            attempt()
        assert str(caught.value) == message


def test_locations() -> None:
    assert folder_at("file:///a/b") == folder_at("/a/b") == LocalFolder(Path("/a/b"))
    assert str(folder_at("run")) == "run"
    assert (str(folder_at(f"{URL}/")), folder_at(URL).remote) == (URL, True)
    with pytest.raises(UsageError, match="Protocol not known: nowhere"):
        folder_at("nowhere://a")
    assert str(pickle.loads(pickle.dumps(RunFiles(UrlFolder(URL)))).folder) == URL  # noqa: S301
