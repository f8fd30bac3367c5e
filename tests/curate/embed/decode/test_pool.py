"""Decoding in threads and in processes: equal results, and processes that really die."""

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from benchmarks.speed.cheap import PROMPTS, MadeSource, cheap_pixels, cheap_scoring, column, made_parts
from curate.embed.decode.decoders import PillowDecoder
from curate.embed.decode.pool import Prepared, batches_ahead, compact, decode_pool, default_decode_processes
from curate.embed.decode.preprocess import Preprocessors, layouts, prepare
from curate.embed.decode.processes import DecodeProcesses, modules_in
from curate.embed.decode.reading import Batch, EncodedImage
from curate.embed.decode.taken_apart import taken_apart
from curate.embed.device.pipeline import compute_parts
from curate.embed.options import ComputeOptions
from curate.errors import CurateError
from curate.models.model_set import load_model_set
from curate.models.scoring import load_scoring
from curate.sources.images import Rejected
from curate.storage.run import Run
from tests.curate.builders import MODELS, picture_bytes
from tests.curate.deadly import DEADLY_SIZE, OnceDeadly, deadly_pixels
from tests.demo import ROOT

DEADLY = picture_bytes(1, DEADLY_SIZE)


def batches(data: Sequence[bytes | None], size: int = 10) -> list[Batch]:
    part = made_parts(len(data), len(data))[0]
    images = [EncodedImage(uid, place, one) for (uid, place), one in zip(part.images, data, strict=True)]
    return [Batch(part, images[i : i + size], i + size >= len(images)) for i in range(0, len(images), size)]


def decoded(preprocessors: Preprocessors, items: Iterable[Batch], processes: int = 0) -> list[Prepared]:
    with decode_pool(PillowDecoder(), preprocessors, 10, threads=2, processes=processes) as decoding:
        return list(decoding.batches(items))


def test_processes_and_threads_give_equal_pixels_for_every_tower() -> None:
    models = load_model_set(MODELS)
    preprocessors = load_scoring(models, models.choose(["clip", "pickscore", "hpsv2"]), "cpu", "fp32").preprocessors
    assert len(preprocessors) == 3
    data = [picture_bytes(i, (40 + i, 64), "PNG" if i % 3 else "JPEG") for i in range(12)] + [None, b"", b"no"]
    here, elsewhere = (decoded(preprocessors, batches(data), processes) for processes in (0, 2))
    for one, other in zip(here, elsewhere, strict=True):
        assert one.results == other.results
        assert all(torch.equal(one.pixels[key], other.pixels[key]) for key in preprocessors)
    assert [type(result) for result in elsewhere[1].results[-3:]] == [Rejected] * 3
    assert len(here[1].pixels[next(iter(preprocessors))]) == 2


def test_preprocessors_pickle_without_weights() -> None:
    models = load_model_set(MODELS)
    scoring = load_scoring(models, models.choose(["clip", "pickscore", "hpsv2"]), "cpu", "fp32")
    known = {key: taken_apart(preprocess) for key, preprocess in scoring.preprocessors.items()}
    assert all(known.values())
    pickled = pickle.dumps(known)
    assert len(pickled) < 10_000
    assert {"torchvision.transforms.transforms", "curate.models.towers.hpsv2"} <= set(modules_in(pickled))


def test_rejected_rows_are_closed_up_in_order() -> None:
    pixels = {"a": torch.arange(5.0).reshape(5, 1).clone()}
    assert compact(pixels, [0, 2, 4])["a"].flatten().tolist() == [0.0, 2.0, 4.0]
    assert compact(pixels, [])["a"].shape == (0, 1)


@pytest.mark.parametrize(("batch", "workers", "expected"), [(64, 2, 1), (64, 16, 4), (8, 2, 4), (1024, 16, 1)])
def test_batches_ahead_feed_every_worker_twice(batch: int, workers: int, expected: int) -> None:
    assert batches_ahead(batch, workers) == expected


@pytest.mark.parametrize(("cores", "processes"), [(1, 1), (2, 1), (3, 1), (8, 6), (16, 14), (64, 62)])
def test_a_gpu_has_a_decode_process_for_each_core_but_two(cores: int, processes: int) -> None:
    assert default_decode_processes("cuda:0", cores=cores) == processes
    assert default_decode_processes("cuda:0", "nvjpeg", cores) == default_decode_processes("cpu", cores=cores) == 0


def test_an_image_that_crashes_its_process_is_set_aside_and_the_others_stay(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A real SIGSEGV, twice: in its chunk and alone."""

    def data(index: int) -> bytes:
        return DEADLY if index == 13 else picture_bytes(index, (16, 16))

    options = ComputeOptions("cpu", "fp32", batch_images=10, decode_processes=2)
    source: Any = MadeSource(data)
    scoring = cheap_scoring(deadly_pixels)
    compute_parts(Run(tmp_path), source, scoring, PROMPTS, made_parts(40, 20), options, lambda done: None)
    assert column(Run(tmp_path), "images", "image_uid") == [f"image-{i}" for i in range(40) if i != 13]
    dropped = pq.read_table(Run(tmp_path).table("dropped")).to_pylist()
    assert dropped == [
        {
            "stage": "embed",
            "pair_id": None,
            "image_uid": "image-13",
            "reason": "image_kills_worker",
            "detail": "made.parquet row group 1 row 3 image 0: the process that decoded it died, twice: SIGSEGV",
        }
    ]
    assert "note: a decode process died (SIGSEGV); its " in capsys.readouterr().err


def test_a_process_killed_once_costs_no_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """SIGKILL, as from the out-of-memory killer; the image is sound and decodes the second time."""
    data = [picture_bytes(i, (16, 16)) for i in range(8)] + [DEADLY, picture_bytes(9, (16, 16))]
    found = decoded({"8x8": OnceDeadly(tmp_path / "mark")}, batches(data), processes=1)
    whole = decoded({"8x8": cheap_pixels}, batches(data))
    assert (tmp_path / "mark").exists()
    assert found[0].results == whole[0].results
    assert torch.equal(found[0].pixels["8x8"], whole[0].pixels["8x8"])
    assert "note: a decode process died (SIGKILL); its 2 images are tried again one by one" in capsys.readouterr().err


def test_a_users_own_files_of_our_names_are_not_taken_for_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "curate.py").write_text("raise SystemExit('the wrong one')")
    monkeypatch.chdir(tmp_path)
    forkserver._forkserver._stop()  # type: ignore[attr-defined]
    data = [picture_bytes(0, (16, 16))]
    found = decoded({"8x8": cheap_pixels}, batches(data), processes=1)
    assert found[0].results == decoded({"8x8": cheap_pixels}, batches(data))[0].results


@pytest.mark.parametrize("processes", [0, 1])
def test_whatever_fails_after_decoding_costs_its_own_picture(processes: int) -> None:
    data = [picture_bytes(0, size) for size in ((20, 20), (16, 16), (17, 17), (30, 20))]
    found = decoded({"8x8": failing_pixels}, batches(data), processes)[0]
    assert found.results[1] == Rejected("image_unscorable", "ZeroDivisionError: sixteen")
    assert found.results[2] == Rejected(
        "image_unscorable", "ValueError: it gave (3, 1, 8), where other pictures give (3, 8, 8)"
    )
    assert [isinstance(result, Rejected) for result in found.results] == [False, True, True, False]
    whole = decoded({"8x8": cheap_pixels}, batches([data[0], data[3]]))[0]
    assert torch.equal(found.pixels["8x8"], whole.pixels["8x8"])


def test_a_picture_too_large_for_the_memory_costs_itself_a_full_device_the_run() -> None:
    assert decoded({"8x8": failing_pixels}, batches([picture_bytes(0, (18, 18))]))[0].results == [
        Rejected("image_unscorable", "MemoryError: eighteen")
    ]
    with pytest.raises(torch.OutOfMemoryError):
        decoded({"8x8": failing_pixels}, batches([picture_bytes(0, (19, 19))]))


def failing_pixels(image: Image.Image) -> torch.Tensor:
    if image.width == 16:
        raise ZeroDivisionError("sixteen")
    if image.width == 18:
        raise MemoryError("eighteen")
    if image.width == 19:
        raise torch.OutOfMemoryError
    return cheap_pixels(image)[:, :1] if image.width == 17 else cheap_pixels(image)


class NotThere:
    """Pickles here; where it is unpickled, it fails."""

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return unpickled_badly, ()

    def __call__(self, image: Image.Image) -> torch.Tensor:
        return cheap_pixels(image)


def unpickled_badly() -> None:
    sys.exit(7)


def test_a_process_that_cannot_start_is_said() -> None:
    with pytest.raises(CurateError) as raised:
        decoded({"8x8": NotThere()}, batches([picture_bytes(0)]), processes=1)
    assert str(raised.value) == "a decode process cannot start (exit code 7); use --decode-processes 0"


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes in /proc")
def test_workers_ignore_ctrl_c_and_end_with_their_context() -> None:
    preprocessors: Preprocessors = {"8x8": cheap_pixels}
    pixels = {"8x8": torch.empty(1, 3, 8, 8)}
    with DecodeProcesses(PillowDecoder(), preprocessors, layouts(preprocessors)) as processes:
        first = processes.prepare([picture_bytes(0)], pixels)
        pid = next(iter(processes.workers)).process.pid
        assert pid is not None
        os.kill(pid, signal.SIGINT)
        assert processes.prepare([picture_bytes(0)], pixels) == first
        assert next(iter(processes.workers)).process.pid == pid
    assert first == prepare(PillowDecoder(), preprocessors, [picture_bytes(0)], pixels)
    assert not alive(pid)


ORPHANS = """
import sys, time, torch
from curate.embed.decode.processes import DecodeProcesses
from curate.embed.decode.decoders import PillowDecoder
from curate.embed.decode.preprocess import layouts
from tests.curate.builders import picture_bytes
from benchmarks.speed.cheap import cheap_pixels

if __name__ == "__main__":
    preprocessors = {"8x8": cheap_pixels}
    with DecodeProcesses(PillowDecoder(), preprocessors, layouts(preprocessors)) as processes:
        processes.prepare([picture_bytes(0)], {"8x8": torch.empty(1, 3, 8, 8)})
        print(next(iter(processes.workers)).process.pid, flush=True)
        time.sleep(600)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes in /proc")
def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(ORPHANS)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        assert alive(worker)
        parent.kill()
    deadline = time.monotonic() + 60
    while alive(worker) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive(worker)
