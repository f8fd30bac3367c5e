"""Every bad input of the field in one source, from `embed` to `export-shards`; disks that fill or cannot be written."""

import errno
import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.curate.builders import CONTROL_UID, MODELS, PICKAPIC, Outcome, pair_row, picture_bytes, write_pairs
from tests.curate.sources.test_images import bomb, encoded

Curate = Callable[..., Outcome]
ADVICE = "make room or choose another place, then run again"


def rotated_jpeg() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(Image.open(io.BytesIO(picture_bytes(50, (48, 32), "PNG"))), "JPEG", exif=exif)


def odd_pictures() -> dict[str, bytes]:
    """Pictures that a viewer shows, by uid."""
    rgb = Image.open(io.BytesIO(picture_bytes(51, (20, 20), "PNG")))
    deep = Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20) * 163)
    return {
        "cmyk": encoded(rgb.convert("CMYK"), "JPEG"),
        "deep": encoded(deep),
        "gray": encoded(rgb.convert("L"), "JPEG"),
        "palette": encoded(rgb.convert("P"), transparency=3),
        "clear": encoded(rgb.convert("RGBA")),
        "rotated": rotated_jpeg(),
        "webp": encoded(rgb, "WEBP"),
        "gif": encoded(rgb, "GIF"),
        "pixel": encoded(Image.new("RGB", (1, 1))),
        "sliver": encoded(Image.new("RGB", (9, 900))),
    }


BROKEN: dict[str, tuple[bytes | None, str]] = {
    "cut_jpeg": (picture_bytes(52)[:300], "image_unreadable"),
    "cut_png": (picture_bytes(53, form="PNG")[:300], "image_unreadable"),
    "text": (b"<html>404</html>", "image_unreadable"),
    "zero": (b"", "image_empty"),
    "null": (None, "image_missing"),
    "bomb": (bomb(40_000, 40_000), "image_too_large"),
    "spacer": (encoded(Image.new("RGB", (1, 600)), "GIF"), "image_too_narrow"),
}
PROMPTS = ["word " * 2_000, "красный круг", "赤い丸 🔴👩‍🚀", "\x07", "a\x00b"]
DROPPED: dict[str, list[dict[str, Any]]] = {
    "bad_label": [{"label_0": None}, {"label_0": float("nan")}, {"label_0": 0.7, "label_1": 0.3}, {"label_1": 0.0}],
    "unlabelled": [{"has_label": False}, {"has_label": None}],
    "control_image": [{"image_1_uid": CONTROL_UID}],
    "empty_prompt": [{"caption": ""}, {"caption": None}, {"caption": " \n"}],
    "missing_image": [{"image_0_uid": None}],
    "same_image": [{"image_0_uid": "image-0", "image_1_uid": "image-0"}],
    "duplicate_pair": [{}],
}


def rows_of_everything() -> list[dict[str, Any]]:
    """20 good rows, then one for each oddity; even rows prefer image 1, so row 0's labels are 0 and 1."""
    rows = [pair_row(i) for i in range(20)]
    rows += [pair_row(0, image_0_uid=uid, jpg_0=data) for uid, data in odd_pictures().items()]
    rows += [pair_row(0, image_0_uid=uid, jpg_0=data) for uid, (data, _) in BROKEN.items()]
    rows += [pair_row(0, caption=prompt) for prompt in PROMPTS]
    rows += [pair_row(0, label_0=0.5, label_1=0.5)]
    rows += [pair_row(0, **changes) for faults in DROPPED.values() for changes in faults]
    return rows


def embed(source: object, run: Path) -> list[object]:
    shared = ["--manifest", "pickapic_v2", "--models", MODELS, "--device", "cpu"]
    return ["embed", *shared, "--source", source, "--run", run]


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def no_space(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Callable[[], Path]]:
    """A file system that becomes read-only when called; skipped where mounting is not permitted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    tmpfs = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(tmpfs, capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system is not permitted here")

    def freeze() -> Path:
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        return folder

    yield freeze
    subprocess.run(["umount", str(folder)], check=True)


def test_everything_at_once(curate: Curate, tmp_path: Path) -> None:
    """Each row and image is handled or set aside with its reason; the sums close; the shards hold the odd bytes."""
    rows, run = rows_of_everything(), tmp_path / "run"
    outcome = curate(*embed(write_pairs(tmp_path / "all.parquet", rows), run), "--json")
    assert outcome.code == 0, outcome.err
    report = json.loads(outcome.out)
    assert report["source_rows"] == len(rows)
    assert report["dropped_pairs"] == {reason: len(faults) for reason, faults in sorted(DROPPED.items())}
    assert report["pairs"] == len(rows) - sum(map(len, DROPPED.values()))
    assert report["dropped_images"] == {
        "image_empty": 1, "image_missing": 1, "image_too_large": 1, "image_too_narrow": 1, "image_unreadable": 3,
    }  # fmt: skip
    assert report["images"] == 21 + len(odd_pictures()) + len(BROKEN)
    assert report["scored_images"] == 21 + len(odd_pictures())
    assert report["prompts"] == 5 + len(PROMPTS)
    assert report["ties"] == 1

    ranked = json.loads(curate("rank", "--run", run, "--top", "1.0", "--json").out)
    assert ranked["dropped_pairs"] == {"image_dropped": len(BROKEN), "tie": 1}
    assert ranked["pairs"] == ranked["base_pairs"] + len(BROKEN) + 1
    assert curate("export-shards", "--run", run).code == 0
    with tarfile.open(run / "shards" / "pairs-000000.tar") as tar:
        members = {member.name: tar.extractfile(member) for member in tar}
        held = {stream.read() for name, stream in members.items() if stream and name.endswith(".jpg")}
    assert held >= set(odd_pictures().values())


def test_dropped_images_say_why(curate: Curate, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert curate(*embed(write_pairs(tmp_path / "all.parquet", rows_of_everything()), run)).code == 0
    query = "select image_uid, reason from dropped where image_uid is not null order by image_uid"
    found = json.loads(curate("sql", query, "--run", run, "--json").out)
    assert found == [{"image_uid": uid, "reason": reason} for uid, (_, reason) in sorted(BROKEN.items())]
    shown = json.loads(curate("sql", "select image_uid, width, height, format from images", "--run", run, "--json").out)
    sizes = {row["image_uid"]: (row["width"], row["height"], row["format"]) for row in shown}
    assert sizes["rotated"] == (32, 48, "JPEG")
    assert sizes["sliver"] == (9, 900, "PNG")
    assert sizes["webp"][2] == "WEBP"


def test_no_picture_is_readable(curate: Curate, tmp_path: Path) -> None:
    """Embedding counts them all and ends with why."""
    rows, run = [pair_row(i, jpg_0=b"", jpg_1=b"no") for i in range(4)], tmp_path / "run"
    outcome = curate(*embed(write_pairs(tmp_path / "a.parquet", rows), run), "--json")
    assert (outcome.code, outcome.out) == (1, "")
    said = outcome.err.splitlines()[-1]
    assert said.startswith(
        "curate: not one of the 4 pairs has both of its pictures: 1 image_empty, 4 image_unreadable; such as"
    )
    assert said.endswith("correct --images, --source or the manifest, or bring the pictures, and run again")


def test_no_row_stands(curate: Curate, tmp_path: Path) -> None:
    rows, run = [pair_row(i, has_label=False) for i in range(3)], tmp_path / "run"
    outcome = curate(*embed(write_pairs(tmp_path / "a.parquet", rows), run))
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err.splitlines()[-1] == (
        "curate: none of the 3 rows can be used: 3 unlabelled; correct the manifest or --source"
    )
    assert not run.exists()


def bad_files(folder: Path) -> dict[str, str]:
    """File -> the start of the sentence that refuses it."""
    good = write_pairs(folder / "good.parquet", [pair_row(0)]).read_bytes()
    table = pa.Table.from_pylist([pair_row(0)], schema=PICKAPIC)
    (folder / "zero.parquet").write_bytes(b"")
    (folder / "text.parquet").write_text("this is no Parquet file")
    (folder / "cut.parquet").write_bytes(good[: len(good) // 2])
    write_pairs(folder / "no_rows.parquet", [])
    pq.write_table(table.drop_columns(["jpg_1"]), folder / "no_column.parquet")
    pq.write_table(table.set_column(0, "caption", pa.array([3])), folder / "mistyped.parquet")
    return {
        "zero": f"{folder}/zero.parquet is not a Parquet file (",
        "text": f"{folder}/text.parquet is not a Parquet file (",
        "cut": f"{folder}/cut.parquet is not a Parquet file (",
        "no_rows": f"no rows in {folder}/no_rows.parquet; correct --source or the manifest's files",
        "no_column": f"{folder}/no_column.parquet: no column 'jpg_1', which pickapic_v2.toml maps to "
        "columns.image_1_bytes; did you mean 'jpg_0'?",
        "mistyped": f"{folder}/mistyped.parquet: column 'caption' holds int64, but columns.prompt needs text; "
        "correct pickapic_v2.toml or the file",
        "gone": f"{folder}/gone.parquet is not there; correct --source, or put it back",
    }


@pytest.mark.parametrize("name", ["zero", "text", "cut", "no_rows", "no_column", "mistyped", "gone"])
def test_bad_file_is_one_sentence(curate: Curate, tmp_path: Path, name: str) -> None:
    start, run = bad_files(tmp_path)[name], tmp_path / "run"
    outcome = curate(*embed(tmp_path / f"{name}.parquet", run))
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err.splitlines()[-1].startswith(f"curate: {start}")
    assert "Traceback" not in outcome.err
    assert not run.exists()


def test_full_disk_while_embedding_then_again(
    curate: Curate, source_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scores' part meets a full disk: one sentence, nothing half-written; with room again the run completes."""
    run, whole = tmp_path / "run", pq.write_table

    def full_at_scores(table: pa.Table, path: Path, **options: Any) -> None:
        if path.parent.name == "scores":
            path.write_bytes(b"PAR1 and then nothing")
            no_space()
        whole(table, path, **options)

    monkeypatch.setattr("curate.storage.tables.pq.write_table", full_at_scores)
    outcome = curate(*embed(source_file, run))
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err.splitlines()[-1] == (
        f"curate: cannot write {run}/scores/part-00000.parquet: No space left on device; {ADVICE}"
    )
    assert not [name for name in files_below(run) if name.endswith(".tmp") or name.startswith("scores/")]
    monkeypatch.setattr("curate.storage.tables.pq.write_table", whole)
    assert curate("rank", "--run", run).err == (
        f"curate: `curate embed` has not finished in {run}; run it again, it goes on where it stopped\n"
    )
    assert json.loads(curate(*embed(source_file, run), "--json").out)["parts_computed"] == 1


def test_full_disk_while_ranking_keeps_the_earlier_ranking(
    curate: Curate, source_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    curate(*embed(source_file, run))
    assert curate("rank", "--run", run, "--top", "5").code == 0
    before = files_below(run)
    monkeypatch.setattr("curate.storage.tables.os.fsync", no_space)
    outcome = curate("rank", "--run", run, "--top", "9")
    assert outcome == Outcome(
        1, "", f"curate: cannot write {run}/dropped/rank-default.parquet: No space left on device; {ADVICE}\n"
    )
    assert files_below(run) == before


def test_read_only_run_directory(
    curate: Curate, source_file: Path, tmp_path: Path, read_only: Callable[[], Path]
) -> None:
    """Nothing can be written there, by any stage, and each says so; reading goes on working."""
    run = tmp_path / "disk" / "run"
    assert curate(*embed(source_file, run)).code == 0
    assert curate("rank", "--run", run).code == 0
    read_only()
    for arguments, file in (
        (embed(source_file, run), "."),
        (embed(source_file, tmp_path / "disk" / "other"), "../other"),
        (["rank", "--run", run], "."),
        (["compare", "--run", run], "compare.json"),
    ):
        outcome = curate(*arguments)
        path = os.path.normpath(run / file)
        assert (outcome.code, outcome.out) == (1, "")
        assert outcome.err.splitlines()[-1] == f"curate: cannot write {path}: Read-only file system; {ADVICE}"
    assert json.loads(curate("sql", "select count(*) as n from pairs", "--run", run, "--json").out) == [{"n": 20}]


def test_run_directory_that_is_a_file(curate: Curate, source_file: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.write_text("notes")
    outcome = curate(*embed(source_file, run))
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err.splitlines()[-1].startswith(f"curate: cannot write {run}: ")
    assert curate("rank", "--run", run).err == f"curate: no run in {run}; run `curate embed --run {run}` first\n"
    assert run.read_text() == "notes"
