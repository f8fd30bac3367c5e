"""A table or text is in place whole, or what was there before is untouched; failures say what to do."""

import errno
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.errors import RunError, WriteError
from curate.storage import folder
from curate.storage.run import Run, first_difference, part_rows, write_part
from curate.storage.tables import rows_table, write_table, write_text
from schemas import tables

SCHEMA = pa.schema([pa.field("n", pa.int64(), nullable=False)])
ADVICE = "make room or choose another place, then run again"


def numbers(*values: int) -> pa.Table:
    return pa.table({"n": pa.array(values, pa.int64())}, schema=SCHEMA)


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def no_space(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def half_written(table: pa.Table, path: Path, **_: Any) -> None:
    path.write_bytes(b"PAR1 and then nothing")
    no_space()


@pytest.fixture(params=["write", "sync"])
def full_disk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk fills while the bytes are written, or when they are flushed."""
    if request.param == "write":
        monkeypatch.setattr("curate.storage.tables.pq.write_table", half_written)
    monkeypatch.setattr("curate.storage.tables.os.fsync", no_space)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB; skipped where mounting is not permitted."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    mount = shutil.which("mount")
    if (
        mount is None
        or subprocess.run(
            [mount, "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("mounting a tiny file system is not permitted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_write_and_read(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "t.parquet"
    write_table(numbers(1, 2), path, SCHEMA)
    assert pq.read_table(path).equals(numbers(1, 2))
    assert files_below(tmp_path) == ["deep/er/t.parquet"]


def test_written_against_the_schema(tmp_path: Path) -> None:
    write_table(pa.table({"n": pa.array([1], pa.int8())}), tmp_path / "t.parquet", SCHEMA)
    assert pq.read_schema(tmp_path / "t.parquet").equals(SCHEMA)
    with pytest.raises(ValueError, match="names"):
        write_table(pa.table({"m": [1]}), tmp_path / "u.parquet", SCHEMA)
    assert files_below(tmp_path) == ["t.parquet"]


def test_no_rows_keep_their_schema() -> None:
    assert rows_table([], tables.DROPPED).schema.equals(tables.DROPPED)


@pytest.mark.usefixtures("full_disk")
def test_full_disk_leaves_nothing_new(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    with pytest.raises(WriteError) as caught:
        write_table(numbers(1), path, SCHEMA)
    assert str(caught.value) == f"cannot write {path}: No space left on device; {ADVICE}"
    assert caught.value.exit_code == 1
    assert files_below(tmp_path) == []


def test_full_disk_keeps_the_earlier_table(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    path = tmp_path / "t.parquet"
    write_table(numbers(1, 2, 3), path, SCHEMA)
    before = path.read_bytes()
    request.getfixturevalue("monkeypatch").setattr("curate.storage.tables.pq.write_table", half_written)
    with pytest.raises(WriteError):
        write_table(numbers(4), path, SCHEMA)
    assert path.read_bytes() == before
    assert files_below(tmp_path) == ["t.parquet"]


def test_really_full_disk(tiny_disk: Path) -> None:
    path = tiny_disk / "t.parquet"
    write_table(numbers(1), path, SCHEMA)
    before = path.read_bytes()
    with pytest.raises(WriteError) as caught:
        write_table(pa.table({"n": pa.array([hash(str(i)) for i in range(50_000)], pa.int64())}), path, SCHEMA)
    assert "No space left on device" in str(caught.value)
    assert path.read_bytes() == before
    assert files_below(tiny_disk) == ["t.parquet"]


def test_really_read_only(tiny_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)
    with pytest.raises(WriteError) as caught:
        write_text("x", tiny_disk / "x.txt")
    assert str(caught.value) == f"cannot write {tiny_disk}/x.txt: Read-only file system; {ADVICE}"


def test_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("not a folder")
    for path in (tmp_path / "run" / "a.txt", tmp_path / "run" / "b" / "a.txt"):
        with pytest.raises(WriteError) as caught:
            write_text("x", path)
        assert str(caught.value).startswith(f"cannot write {path}: ")
    assert (tmp_path / "run").read_text() == "not a folder"


def test_interrupt_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("curate.storage.tables.os.fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_text("half", tmp_path / "x")
    assert files_below(tmp_path) == []


SETTINGS: dict[str, Any] = {"manifest": {"columns": {"prompt": "p"}}, "files": {"a": 1}, "precision": "fp32"}


def test_claim_and_claim_again(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    assert run.claim(SETTINGS, {"packages": {}}) is False
    assert run.claim(SETTINGS, {"packages": {"torch": "another version"}}) is True
    assert run.settings() == {"settings": SETTINGS, "info": {"packages": {}}}


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"precision": "bf16"}, "precision was 'fp32', now 'bf16'"),
        ({"manifest": {"columns": {"prompt": "q"}}}, "manifest.columns.prompt was 'p', now 'q'"),
        ({"files": {"a": 2}}, "files.a was 1, now 2"),
        ({"files": {"a": 1, "b": 1}}, "files.b was None, now 1"),
        ({"files": {}}, "files.a was 1, now None"),
    ],
)
def test_other_settings_are_named(tmp_path: Path, changes: dict[str, Any], difference: str) -> None:
    run = Run(tmp_path)
    run.claim(SETTINGS, {})
    before = files_below(tmp_path)
    with pytest.raises(RunError) as caught:
        run.claim(SETTINGS | changes, {})
    assert str(caught.value) == (
        f"{tmp_path} was made under other settings: {difference}; use another --run, or delete {tmp_path}"
    )
    assert files_below(tmp_path) == before


def test_first_difference_is_none_for_equals() -> None:
    assert first_difference(SETTINGS, json.loads(json.dumps(SETTINGS))) is None


def test_a_run_of_an_earlier_version_lacks_what_is_off(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.claim(SETTINGS, {})
    assert run.refuse_other(SETTINGS | {"compiled": False, "manifest": SETTINGS["manifest"] | {"rules": {}}})
    with pytest.raises(RunError, match="compiled was None, now True"):
        run.refuse_other(SETTINGS | {"compiled": True})


def test_no_run_here(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "none", tmp_path / "file"):
        with pytest.raises(RunError) as caught:
            Run(root).settings()
        assert str(caught.value) == f"no run in {root}; run `curate embed --run {root}` first"


@pytest.mark.parametrize("content", [b"= 3", b"\xff\xfe", b"[info]\n"])
def test_damaged_settings(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run.toml").write_bytes(content)
    with pytest.raises(RunError) as caught:
        Run(tmp_path).settings()
    assert str(caught.value).startswith(f"{tmp_path}/run.toml is damaged (")
    assert str(caught.value).endswith(f"); delete {tmp_path} and run `curate embed` again")


def test_unfinished_and_damaged_summary(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.claim(SETTINGS, {})
    with pytest.raises(RunError) as caught:
        run.summary()
    assert str(caught.value) == (
        f"`curate embed` has not finished in {tmp_path}; run it again, it goes on where it stopped"
    )
    run.mark_finished({"pairs": 3})
    assert run.summary() == {"pairs": 3}
    (tmp_path / "embed.json").write_text("{")
    with pytest.raises(RunError) as caught:
        run.summary()
    assert str(caught.value).startswith(f"{tmp_path}/embed.json is damaged (")
    assert str(caught.value).endswith("); run `curate embed` again")


def test_part_is_sound_only_whole(tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert part_rows(run, "part-00000") is None
    write_part(run, "part-00000", {"scores": (numbers(1, 2), SCHEMA), "images": (numbers(7), SCHEMA)})
    assert part_rows(run, "part-00000") == {"scores": 2, "images": 1}
    path = run.table("scores") / "part-00000.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"?")
    assert part_rows(run, "part-00000") is None
    path.write_bytes(whole)
    assert part_rows(run, "part-00000") is not None
    path.unlink()
    assert part_rows(run, "part-00000") is None


@pytest.mark.parametrize("marker", ["", "{", "{}", "[]", "3", '{"scores/x.parquet": 3}', '{"scores/x.parquet": {}}'])
def test_damaged_marker_means_compute_again(tmp_path: Path, marker: str) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "scores").mkdir()
    (tmp_path / "scores" / "x.parquet").write_bytes(b"")
    (tmp_path / "parts" / "part-00000.json").write_text(marker)
    assert part_rows(Run(tmp_path), "part-00000") is None


def test_marker_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fills at a part's second table leaves the part uncommitted."""
    written: list[Path] = []

    def second_fails(table: pa.Table, path: Path, schema: pa.Schema) -> None:
        if written:
            raise WriteError("full")
        written.append(path)
        write_table(table, path, schema)

    monkeypatch.setattr(folder, "write_table", second_fails)
    with pytest.raises(WriteError):
        write_part(Run(tmp_path), "p", {"scores": (numbers(1), SCHEMA), "images": (numbers(2), SCHEMA)})
    assert files_below(tmp_path) == ["scores/p.parquet"]
    assert part_rows(Run(tmp_path), "p") is None
