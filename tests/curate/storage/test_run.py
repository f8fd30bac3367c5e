"""A run directory that several processes write: locks, the first to claim it, temporary files, damaged parts."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.errors import RunError
from curate.storage.run import Run, part_rows, sound_parts, write_part
from curate.storage.tables import ABANDONED_SEC, atomic_path, temporary_path, write_text
from tests.curate.builders import claims_at_once

SCHEMA = pa.schema([("x", pa.int64())])
BUSY = r"another process is writing to .*; wait for it, or use another --run"


def test_any_number_share_a_run_but_not_with_one_that_wants_it_alone(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with run.locked(shared=True), run.locked(shared=True), pytest.raises(RunError, match=BUSY), run.locked():
        pass
    with run.locked(), pytest.raises(RunError, match=BUSY), run.locked(shared=True):
        pass
    with run.locked():
        pass


def test_the_lock_goes_with_its_process(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from curate.storage.run import Run\n"
        "with Run(Path(sys.argv[1])).locked():\n    print('locked', flush=True)\n    time.sleep(600)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout
    with holder.stdout:
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(RunError, match=BUSY), Run(tmp_path).locked():
            pass
        holder.kill()
        holder.wait()
    with Run(tmp_path).locked():
        pass


def test_of_several_that_claim_a_run_at_once_one_wins(tmp_path: Path) -> None:
    """The others see its settings, and are refused because theirs differ."""
    outcomes = claims_at_once(lambda settings: Run(tmp_path).claim(settings, {}))
    assert outcomes.count(False) == 1
    winner = Run(tmp_path).settings()["settings"]["number"]
    refused = [text for text in outcomes if text is not False]
    assert all(f"number was {winner}, now " in str(text) for text in refused)
    assert len(refused) == 7


def test_temporary_names_tell_processes_apart(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    with atomic_path(path) as temporary:
        temporary.write_text("whole")
        assert (temporary.parent, temporary.suffix) == (tmp_path, ".tmp")
        assert str(os.getpid()) in temporary.name
        assert not path.exists()
    assert [file.name for file in tmp_path.iterdir()] == ["a.parquet"]


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def left_by(path: Path, process: int, host: str | None = None, age_sec: float = 0.0) -> Path:
    """A temporary file of `path` as another process would have left it."""
    name = temporary_path(path).name
    process_and_host = name.removeprefix(f".{path.name}.").removesuffix(".tmp")
    _, here = process_and_host.split("@")
    left = path.with_name(f".{path.name}.{process}@{host or here}.tmp")
    left.write_text("half")
    os.utime(left, (time.time() - age_sec, time.time() - age_sec))
    return left


def test_what_the_dead_left_is_removed_when_the_file_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "a[1].parquet"
    dead = left_by(path, dead_process())
    own = left_by(path, os.getpid())
    living = left_by(path, os.getppid())
    elsewhere = left_by(path, 1, "another.machine")
    long_ago = left_by(path, 1, "third.machine", age_sec=2 * ABANDONED_SEC)
    other_file = left_by(tmp_path / "b.parquet", dead_process())
    write_text("whole", path)
    assert path.read_text() == "whole"
    assert {file.exists() for file in (dead, own, long_ago)} == {False}
    assert {file.exists() for file in (living, elsewhere, other_file)} == {True}


def test_a_damaged_part_is_named_and_then_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another size is seen at once, other bytes of the same size by the hash; a part never written is not named."""
    run = Run(tmp_path)
    names = [f"part-{number:05d}" for number in range(4)]
    for name in names[:3]:
        write_part(run, name, {"scores": (pa.table({"x": [1, 2]}), SCHEMA)})
    run.mark_finished({})
    for name, content in ((names[1], b"short"), (names[2], None)):
        path = run.table("scores") / f"{name}.parquet"
        path.write_bytes(content or path.read_bytes()[:-1] + b"?")
    assert [part_rows(run, name, hashed=False) for name in names] == [{"scores": 2}, None, {"scores": 2}, None]
    assert sound_parts(run, names) == {names[0]}
    assert capsys.readouterr().err.splitlines() == [
        f"{tmp_path}: {name} is damaged, not as its marker parts/{name}.json says; it is computed again"
        for name in names[1:3]
    ]
    assert [part_rows(run, name, hashed=False) for name in names] == [{"scores": 2}, None, None, None]
    assert not (tmp_path / "embed.json").exists()
    assert sound_parts(run, names) == {names[0]}
    assert capsys.readouterr().err == ""


def test_a_folder_with_brackets_gives_its_own_tables(tmp_path: Path) -> None:
    """Read as a pattern, `run[1]` would be `run1`."""
    for name in ("run1", "run[1]"):
        (tmp_path / name).mkdir()
        pq.write_table(pa.table({"of": [name]}), tmp_path / name / "pairs.parquet")
    run = Run(tmp_path / "run[1]")
    assert run.frame("pairs")["of"].to_list() == ["run[1]"]
    assert run.relation("pairs").fetchall() == [("run[1]",)]
