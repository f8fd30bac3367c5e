"""A run's rows.parquet: what it is made of, who makes it, and what reads it: roots, resuming, two processes, fetch."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.errors import CurateError
from curate.sources.layouts import preparation
from curate.sources.manifest import load_manifest
from curate.sources.opening import open_source
from curate.sources.parquet import Location, Source
from curate.storage.folder import LocalFolder
from tests.curate.builders import MODELS, Outcome, pair_row, picture_bytes, write_pairs
from tests.curate.object_store import BUCKET, Gate
from tests.curate.sources.layouts.test_layouts import exported
from tests.curate.sources.layouts.test_members import write_zip

Curate = Callable[..., Outcome]
URL = f"s3://{BUCKET}/rows/run"
MANIFEST = f"""
models = "{MODELS}"
keep = ["sure"]
[splits.train]
files = ["x.jsonl"]
[columns]
prompt = "prompt"
preferred_path = "a"
rejected_path = "b"
"""


@pytest.fixture(autouse=True)
def manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One pair in a JSONL file, its pictures in one/ and others in two/; the current folder is theirs."""
    monkeypatch.chdir(tmp_path)
    row = {"prompt": "p", "a": "0.jpg", "b": "1.jpg", "sure": 0.5}
    (tmp_path / "x.jsonl").write_text(json.dumps(row))
    for first, folder in ((0, "one"), (2, "two")):
        (tmp_path / folder).mkdir()
        for place in (0, 1):
            (tmp_path / folder / f"{place}.jpg").write_bytes(picture_bytes(first + place))
    (tmp_path / "m.toml").write_text(MANIFEST)
    return tmp_path / "m.toml"


def embed(curate: Curate, *options: object, manifest: str = "m.toml") -> Outcome:
    return curate("embed", "--manifest", manifest, "--scorers", "clip", "--device", "cpu", *options)


def rank(curate: Curate) -> None:
    done = curate("rank", "--psi", "clip", "--metric", "margin", "--top", "1.0", "--where", "sure = 0.5")
    assert done.code == 0, done.err


def opened(manifest: Path, *images: str) -> Source:
    return open_source(load_manifest(str(manifest)), None, None, images)


def test_a_relative_root_starts_in_the_current_folder(curate: Curate, tmp_path: Path) -> None:
    assert embed(curate, "--images", "one").code == 0
    rank(curate)
    assert exported(curate, tmp_path)[0]["preferred"] == picture_bytes(0)


def test_another_root_is_another_run(curate: Curate) -> None:
    assert embed(curate, "--images", "one").code == 0
    assert "was made under other settings" in embed(curate, "--images", "two").err
    assert embed(curate, "--images", "one").code == 0


def test_without_a_run_another_root_makes_the_rows_again(manifest: Path, tmp_path: Path) -> None:
    folder = LocalFolder(tmp_path / "run")
    for root in ("one", "two"):
        opened(manifest, root).with_rows(folder)
        assert folder.read_table(preparation.ROWS)["image_0_path"].to_pylist() == [f"{tmp_path}/{root}/0.jpg"]


@pytest.mark.parametrize("root", ["nowhere", "*/nothing.zip", "m.toml"])
def test_a_root_that_holds_no_pictures_is_refused(manifest: Path, root: str) -> None:
    with pytest.raises(CurateError, match="is no folder, zip or tar of pictures"):
        opened(manifest, root)


def test_two_folders_are_no_root(manifest: Path) -> None:
    with pytest.raises(CurateError, match=r"one and .*two: paths start in one folder"):
        opened(manifest, "one", "two")


def test_another_choice_of_question_is_another_run(curate: Curate, tmp_path: Path) -> None:
    rows = [{"prompt": "p", "a": "0.jpg", "b": "1.jpg", "sure": 0, "of": of} for of in ("beauty", "text")]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "m.toml").write_text(f'{MANIFEST}dimension = "of"\n')
    assert embed(curate, "--images", "one", "--dimension", "text").code == 0
    assert "was made under other settings" in embed(curate, "--images", "one").err


def test_rows_that_an_attempt_left_behind_are_not_the_runs(curate: Curate, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(json.dumps({"prompt": "", "a": "0.jpg", "b": "1.jpg", "sure": 0.5}))
    assert "none of the 1 rows can be used" in embed(curate, "--images", "one").err
    assert (tmp_path / "run" / preparation.ROWS).exists()
    source = write_pairs(tmp_path / "s.parquet", [pair_row(0)])
    assert embed(curate, "--models", MODELS, "--source", source, manifest="pickapic_v2").code == 0
    assert curate("rank", "--psi", "clip", "--metric", "margin", "--top", "1.0").code == 0
    assert len(exported(curate, tmp_path)) == 1


def test_processes_that_begin_together_make_them_once(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, make, together = list[str](), preparation._make_rows, Barrier(3)

    def counted(task: Any, made_of: str, folder: Any) -> None:
        made.append(made_of)
        make(task, made_of, folder)

    def ready(_: int) -> str | None:
        source = opened(manifest, "one")
        together.wait()
        return source.with_rows(LocalFolder(tmp_path / "run")).rows_file

    monkeypatch.setattr(preparation, "_make_rows", counted)
    with ThreadPoolExecutor(3) as pool:
        places = set(pool.map(ready, range(3)))
    assert (len(made), len(places)) == (1, 1)


def test_a_run_at_a_url_is_fetched_with_its_rows(curate: Curate, tmp_path: Path, gate: Gate) -> None:
    done = embed(curate, "--images", "one", "--run", URL)
    assert done.code == 0, done.err
    assert curate("fetch", URL, "--run", "run").code == 0
    rank(curate)
    assert exported(curate, tmp_path)[0]["rejected"] == picture_bytes(1)
    assert curate("verify", "run").code == 0


def test_damaged_rows_are_found_and_made_again(curate: Curate, tmp_path: Path) -> None:
    assert embed(curate, "--images", "one").code == 0
    rows = tmp_path / "run" / preparation.ROWS
    whole = rows.read_bytes()
    rows.write_bytes(whole[:-5] + b"x" + whole[-4:])
    done = curate("verify", "run")
    assert (done.code, "rows.parquet: its sha256 is not that of the marker" in done.out) == (1, True)
    assert embed(curate, "--images", "one").code == 0
    assert rows.read_bytes() == whole


def test_an_archive_that_changed_since_it_was_looked_at_is_named(manifest: Path, tmp_path: Path) -> None:
    pictures = {f"{place}.jpg": picture_bytes(place) for place in range(2)}
    archive = write_zip(tmp_path / "i.zip", pictures)
    source = opened(manifest, "i.zip").with_rows(LocalFolder(tmp_path / "run"))
    place = Location(preparation.ROWS, 0, 0, 0)
    write_zip(archive, pictures | {"more.jpg": b"more"})
    with pytest.raises(CurateError, match=r"i.zip changed since it was embedded: .* bytes then"):
        source.image_bytes([place])


REFUSED = {
    'keep = ["Prompt"]': "'keep' has 'Prompt', a name of ours",
    'keep = ["split"]': "'keep' has 'split', a name of ours",
    'keep = ["nothing"]': "no column 'nothing', which m.toml keeps; it has prompt, a, b, sure",
    'dimension = "beauty"': "there is no column 'dimension' to find 'beauty' in",
    'labels = { values = "models" }': "labels.values is 'models', but there is no 'image_0_model'",
}


@pytest.mark.parametrize("line", REFUSED)
def test_a_manifest_that_does_not_fit_the_files_is_one_sentence(curate: Curate, tmp_path: Path, line: str) -> None:
    """Of Parquet that is read as it lies, too."""
    pq.write_table(pa.table({"prompt": ["p"], "a": ["0.jpg"], "b": ["1.jpg"], "sure": [1.0]}), tmp_path / "x.parquet")
    columns = 'prompt = "prompt"\nimage_0_path = "a"\nimage_1_path = "b"\nlabel_0 = "sure"'
    split = f'[splits.train]\nfiles = ["x.parquet"]\n[columns]\n{columns}\n'
    (tmp_path / "m.toml").write_text(f'models = "{MODELS}"\n{line}\n{split}')
    done = embed(curate, "--dry-run")
    assert REFUSED[line] in done.err.splitlines()[-1]
