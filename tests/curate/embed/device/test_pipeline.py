"""One device's work: what overlaps, what stays in order, what is bounded, and where errors come out."""

import hashlib
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from benchmarks.speed.cheap import PROMPTS, CheapTower, MadeSource, cheap_scoring, column, made_parts
from curate.embed.decode import decoders, preprocess
from curate.embed.decode.pool import batches_ahead
from curate.embed.device import pipeline
from curate.embed.device.pipeline import compute_parts
from curate.embed.device.reports import ALL_BAD_IMAGES, DeviceReport, RunProgress
from curate.embed.options import ComputeOptions
from curate.embed.planning.plan import Part
from curate.errors import ModelError, SourceError, WriteError
from curate.models.scoring import Scoring
from curate.storage.prefetch import prefetched, written_behind
from curate.storage.run import Run, part_rows
from tests.curate.builders import picture_bytes

BATCH = 4
OPTIONS = ComputeOptions("cpu", "fp32", batch_images=BATCH, decode_threads=2)
PICTURE = picture_bytes(0, (16, 16))


def run_parts(
    root: Path,
    source: Any,
    parts: list[Part],
    options: ComputeOptions = OPTIONS,
    scoring: Scoring | None = None,
    report: Any = None,
) -> list[DeviceReport]:
    reports: list[DeviceReport] = []
    compute_parts(Run(root), source, scoring or cheap_scoring(), PROMPTS, parts, options, report or reports.append)
    return reports


def good(index: int) -> bytes:
    return picture_bytes(index, (16, 16))


def one_in_five_bad(index: int) -> bytes | None:
    return b"no picture" if index % 5 == 3 else good(index)


def test_every_image_comes_out_once_and_in_the_order_of_its_part(tmp_path: Path) -> None:
    run_parts(tmp_path, MadeSource(good), made_parts(50, 12))
    assert column(Run(tmp_path), "images", "image_uid") == [f"image-{i}" for i in range(50)]
    assert column(Run(tmp_path), "scores", "image_uid") == [f"image-{i}" for i in range(50)]
    assert part_rows(Run(tmp_path), "part-00004") == {"images": 2, "scores": 2, "dropped": 0}


def test_batches_are_cut_from_one_part_whatever_the_row_groups_and_the_timing(tmp_path: Path) -> None:
    found = []
    for group_images, threads, groups_ahead in ((3, 1, 1), (10, 2, 2), (50, 3, 4)):
        scoring = cheap_scoring()
        options = ComputeOptions("cpu", "fp32", 4, decode_threads=threads, groups_ahead=groups_ahead)
        source, parts = MadeSource(good, group_images), made_parts(26, 10, group_images)
        run_parts(tmp_path / str(group_images), source, parts, options, scoring)
        tower = scoring.towers["cheap"]
        assert isinstance(tower, CheapTower)
        found.append(tower.batches)
    assert found == [[4, 4, 2, 4, 4, 2, 4, 2]] * 3


def test_dropped_images_leave_their_neighbours_values_as_they_are(tmp_path: Path) -> None:
    run_parts(tmp_path / "whole", MadeSource(good), made_parts(30, 12))
    reports = run_parts(tmp_path / "some", MadeSource(one_in_five_bad), made_parts(30, 12))
    whole, some = ({row["image_uid"]: row for row in rows(Run(tmp_path / name))} for name in ("whole", "some"))
    assert len(some) == 24
    assert all(whole[uid] == row for uid, row in some.items())
    assert sum((done.dropped.get("image_unreadable", 0) for done in reports), 0) == 6
    details = column(Run(tmp_path / "some"), "dropped", "detail")
    assert details[0] == "made.parquet row group 0 row 3 image 0: not an image: 10 bytes starting 6e6f2070"


def rows(run: Run) -> list[dict[str, Any]]:
    return pq.read_table(run.table("images")).to_pylist()


def test_reports_add_up(tmp_path: Path) -> None:
    run_progress = RunProgress(50, 5)
    run_parts(tmp_path, MadeSource(one_in_five_bad), made_parts(50, 12), report=run_progress.add)
    numbers = run_progress.numbers()
    assert (numbers["images_done"], numbers["parts_done"]) == (50, 5)
    assert numbers["dropped"] == {"image_unreadable": 10}
    assert 0 < numbers["busy_share"] <= 1
    assert numbers["devices"]["cpu"]["images"] == 50


def test_each_row_group_of_a_part_is_read_once_and_ahead_of_the_part_before(tmp_path: Path) -> None:
    source = MadeSource(good)
    seen: list[int] = []

    def report(done: DeviceReport) -> None:
        if done.images and not seen:
            wait_until(lambda: len(source.read) >= 2)  # the second part's group, while the first part is at the towers
            seen.append(len(source.read))

    run_parts(tmp_path, source, made_parts(40, 10), report=report)
    assert source.read == [("made.parquet", group) for group in range(4)]
    assert seen


def wait_until(holds: Any) -> None:
    pause = threading.Event()
    for _ in range(3000):
        if holds():
            return
        pause.wait(0.01)
    raise AssertionError("it never held")


def test_the_next_part_is_computed_while_one_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, computed = pipeline.write_part, threading.Event()

    def waiting_write(run: Run, name: str, files: Any) -> None:
        if name == "part-00000":
            assert computed.wait(30), "part 1 was not computed while part 0 was written"
        write(run, name, files)

    counted: list[int] = []

    def report(done: DeviceReport) -> None:
        counted.append(done.images)
        if sum(counted) > 10:
            computed.set()

    monkeypatch.setattr(pipeline, "write_part", waiting_write)
    run_parts(tmp_path, MadeSource(good), made_parts(20, 10), report=report)
    assert sum(counted) == 20


def test_memory_is_bounded_by_row_groups_and_batches_not_by_the_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source of 600 images; no moment may hold more than the module's docstring says."""
    alive: dict[int, int] = {}
    most, lock = 0, threading.Lock()

    class Counted:
        """Stands for one image's bytes; knows when it is let go."""

        def __init__(self, number: int) -> None:
            nonlocal most
            self.data = PICTURE
            weakref.finalize(self, alive.pop, number)
            with lock:
                alive[number] = 1
                most = max(most, len(alive))

        def __len__(self) -> int:
            return len(self.data)

    decode = decoders.decode
    monkeypatch.setattr(decoders, "decode", lambda counted, **options: decode(counted.data, **options))
    monkeypatch.setattr(preprocess, "sha256", lambda counted: hashlib.sha256(counted.data))
    source = MadeSource(Counted)  # type: ignore[arg-type]
    run_parts(tmp_path, source, made_parts(600, 100))
    ahead_of_towers = batches_ahead(BATCH, OPTIONS.decode_threads)
    bound = (OPTIONS.groups_ahead + 2) * source.group_images + (ahead_of_towers + 4) * BATCH
    assert bound < 600 / 4
    assert 2 * source.group_images < most <= bound
    assert not alive


def test_an_unreadable_source_comes_out_as_it_is_and_earlier_parts_stand(tmp_path: Path) -> None:
    def failing(index: int) -> bytes:
        if index == 95:
            raise SourceError("made.parquet: row group 9 cannot be read; fetch the file again")
        return good(index)

    with pytest.raises(SourceError, match="row group 9 cannot be read"):
        run_parts(tmp_path, MadeSource(failing), made_parts(100, 10))
    assert part_rows(Run(tmp_path), "part-00000") is not None
    assert part_rows(Run(tmp_path), "part-00009") is None
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("ahead", "behind", "decode"))]


def test_a_full_disk_comes_out_of_the_writer_and_ends_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []

    def full(run: Run, name: str, files: Any) -> None:
        written.append(name)
        raise WriteError("cannot write: No space left on device")

    monkeypatch.setattr(pipeline, "write_part", full)
    with pytest.raises(WriteError, match="No space left"):
        run_parts(tmp_path, MadeSource(good), made_parts(40, 10))
    assert written == ["part-00000"]


def test_a_tower_that_fails_ends_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scoring = cheap_scoring()

    def not_finite(pixels: Any) -> Any:
        return pixels.reshape(len(pixels), -1)[:, :4] * float("nan")

    monkeypatch.setattr(scoring.towers["cheap"], "embed_images", not_finite)
    with pytest.raises(ModelError, match="not finite"):
        run_parts(tmp_path, MadeSource(good), made_parts(20, 10), scoring=scoring)


def test_a_source_of_bad_images_only_ends_early_with_a_sample(tmp_path: Path) -> None:
    source = MadeSource(lambda index: b"" if index % 2 else b"<html>", group_images=100)
    with pytest.raises(SourceError) as raised:
        run_parts(tmp_path, source, made_parts(2000, 1000, 100), report=RunProgress(2000, 2).add)
    assert str(raised.value) == (
        f"not one of the first {ALL_BAD_IMAGES} images can be used: 100 image_empty, 100 image_unreadable; such as "
        "made.parquet row group 0 row 0: image_unreadable (not an image: 6 bytes starting 3c68746d); "
        "made.parquet row group 0 row 1: image_empty (0 bytes); "
        "made.parquet row group 0 row 2: image_unreadable (not an image: 6 bytes starting 3c68746d); "
        "made.parquet row group 0 row 3: image_empty (0 bytes); "
        "made.parquet row group 0 row 4: image_unreadable (not an image: 6 bytes starting 3c68746d); "
        "correct the manifest's image columns or the files, or leave bad files out by --source, then run again"
    )
    assert len(source.read) < 10
    assert part_rows(Run(tmp_path), "part-00000") is None


def test_one_good_image_is_enough_to_go_on(tmp_path: Path) -> None:
    source = MadeSource(lambda index: good(0) if index == 50 else b"no", group_images=100)
    run_parts(tmp_path, source, made_parts(400, 200, 100), report=RunProgress(400, 2).add)
    assert column(Run(tmp_path), "images", "image_uid") == ["image-50"]


def test_ahead_makes_no_more_than_it_may_and_stops_with_its_block() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            made.append(number)
            yield number

    with prefetched(items(), 3) as taken:
        assert next(taken) == 0
        wait_until(lambda: len(made) == 4)
    assert len(made) <= 5
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]


def test_behind_raises_the_error_of_its_last_item() -> None:
    def work(item: int) -> None:
        if item == 2:
            raise KeyboardInterrupt

    def put_both() -> None:
        with written_behind(work) as put:
            put(1)
            put(2)

    with pytest.raises(KeyboardInterrupt):
        put_both()
