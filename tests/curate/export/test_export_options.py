"""Orders, splits, sizes, encodings and workers of an export; what it leaves alone, and what a kill leaves behind."""

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unicodedata import normalize

import datasets
import pytest
from PIL import Image
from webdataset import TarWriter

from curate import cli
from curate.errors import SourceError, UsageError
from curate.export.encoding import Encoding, encoded_anew, parse_encoding
from curate.export.order import SplitShare, parse_bytes, parse_split, split_of
from schemas import shards
from tests.curate.builders import Outcome, picture_bytes
from train.data.pairs import read_pairs

Curate = Callable[..., Outcome]
SHUFFLED_BY_1 = ("--order", "shuffle", "--seed", 1)


@pytest.fixture(scope="module")
def run(ranked_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 pairs over 15 prompts, all of them selected by the ranking `every`."""
    own = Path(shutil.copytree(ranked_run, tmp_path_factory.mktemp("every") / "run"))
    cli.app(["rank", "--run", str(own), "--top", "1.0", "--name", "every"], standalone_mode=False)
    return own


@pytest.fixture
def export(curate: Curate, run: Path, tmp_path: Path) -> Callable[..., Path]:
    """Export `every` into a new folder, or into the one that is named."""

    def exported(*arguments: object, output: Path | None = None) -> Path:
        folder = output or tmp_path / f"out-{len(list(tmp_path.iterdir()))}"
        done = curate("export-shards", "--run", run, "--name", "every", "--output", folder, *arguments)
        assert done.code == 0, done.err
        return folder

    return exported


def index_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "shards.json").read_text()))


def samples(folder: Path) -> dict[str, dict[str, bytes]]:
    """Each sample of a folder by its key, in order."""
    found: dict[str, dict[str, bytes]] = {}
    for entry in index_of(folder)["shards"]:
        with tarfile.open(folder / entry["file"]) as tar:
            for item in tar:
                key, _, member = item.name.partition(".")
                found.setdefault(key, {})[member] = tar.extractfile(item).read()  # type: ignore[union-attr]
    return found


def hashes(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*.tar")}


def test_tars_are_what_webdataset_writes(export: Callable[..., Path]) -> None:
    """By its writer as it comes, which writes in pieces."""
    folder, written = export(), io.BytesIO()
    with TarWriter(written, user="pairsieve", group="pairsieve", mtime=0.0, encoder=False) as tar:
        for key, sample in samples(folder).items():
            tar.write({"__key__": key} | sample)
    assert (folder / "pairs-000000.tar").read_bytes() == written.getvalue()


def test_the_number_of_workers_changes_no_byte(export: Callable[..., Path]) -> None:
    found = [hashes(export("--pairs-per-shard", 7, "--workers", workers)) for workers in (1, 2, 7)]
    assert len(found[0]) == 9
    assert found[0] == found[1] == found[2]


def test_shuffled_by_seed(export: Callable[..., Path]) -> None:
    """The same samples in another order, the same for the same seed; keys stay the ranks."""
    ranked, one, again, two = (
        samples(export(*arguments))
        for arguments in ((), ("--order", "shuffle"), ("--order", "shuffle", "--seed", 0), SHUFFLED_BY_1)
    )
    assert list(ranked) == sorted(ranked)
    assert ranked == one == again == two
    assert list(one) == list(again)
    assert len({tuple(found) for found in (ranked, one, two)}) == 3


@pytest.mark.parametrize("order", [(), ("--order", "shuffle", "--seed", 7)])
def test_how_many_pairs_are_joined_together_changes_no_byte(
    export: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, order: tuple[Any, ...]
) -> None:
    at_once = hashes(export(*order))
    monkeypatch.setattr("curate.export.samples.PAIRS_JOINED_TOGETHER", 3)
    assert hashes(export(*order)) == at_once


def test_the_index_says_order_and_counts(export: Callable[..., Path]) -> None:
    index = index_of(export("--order", "shuffle", "--seed", 5))
    assert index["order"] == {"by": "shuffle", "seed": 5}
    assert (index["split"], index["encoded"], index["pairs"], index["prompts"]) == (None, None, 60, 15)


def test_shards_by_bytes(export: Callable[..., Path]) -> None:
    """None exceeds the bound unless its one sample does; no sample is lost."""
    folder = export("--shard-bytes", "60KiB")
    entries = index_of(folder)["shards"]
    assert len(entries) > 3
    assert all(entry["bytes"] <= 60 * 1024 for entry in entries)
    assert sum(entry["samples"] for entry in entries) == 60
    single = index_of(export("--shard-bytes", "1"))["shards"]
    assert [entry["samples"] for entry in single] == [1] * 60


@pytest.mark.parametrize(
    ("text", "size"),
    [("500MB", 500_000_000), ("1.5GiB", 1_610_612_736), ("10k", 10_000), ("77", 77), ("2 mib", 2 << 20)],
)
def test_bytes_in_words(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "MB", "-1", "1TB", "0"])
def test_bytes_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="write a number with KB"):
        parse_bytes(text)


def test_splits_share_no_prompt_and_lose_no_pair(export: Callable[..., Path], tmp_path: Path) -> None:
    """Each split is a folder that `train` and `datasets` read; together they are the whole."""
    whole, folder = samples(export()), export("--split", "train=0.7,validation=0.3", "--pairs-per-shard", 9)
    found = {split: samples(folder / split) for split in ("train", "validation")}
    prompts = {split: {sample["txt"] for sample in one.values()} for split, one in found.items()}
    assert not prompts["train"] & prompts["validation"]
    assert min(map(len, found.values())) > 5
    assert found["train"] | found["validation"] == whole
    splits = json.loads((folder / "splits.json").read_text())
    assert tuple(splits) == shards.SPLIT_INDEX_FIELDS
    assert [one["name"] for one in splits["splits"]] == list(found)
    assert len(read_pairs(folder / "train").pairs) == len(found["train"])
    loaded = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert {split: rows.num_rows for split, rows in loaded.items()} == {s: len(one) for s, one in found.items()}


def test_a_prompt_keeps_its_split() -> None:
    """By its words alone; a smaller share of validation is a part of the larger."""
    small, large = parse_split("train=0.9,validation=0.1"), parse_split("train=0.8,validation=0.2")
    prompts = [f"a picture of {number}" for number in range(2000)]
    held = [{p for p in prompts if split_of(p, shares) == "validation"} for shares in (small, large)]
    assert held[0] < held[1]
    assert [abs(len(one) / 2000 - share) < 0.03 for one, share in zip(held, (0.1, 0.2), strict=True)] == [True, True]
    assert split_of("A  Red\nCircle ", small) == split_of("a red circle", small)
    assert split_of("a red circle", ()) == ""


def test_two_spellings_of_one_text_in_unicode_share_a_split() -> None:
    shares = parse_split("train=0.5,validation=0.5")
    for prompt in (f"Un caf\u00e9 \u1e9b\u0323 {number}" for number in range(50)):
        spelled = {split_of(normalize(form, prompt), shares) for form in ("NFC", "NFD")}
        assert len(spelled) == 1, prompt


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train=0.5", "the shares sum to 0.5; they must sum to 1"),
        ("train=0.5,Train=0.5", "a split is named twice"),
        ("train=x,b=1", "write NAME=SHARE, such as train=0.95,validation=0.05"),
        ("../a=1", "'../a' is no name of a split; take letters, digits and _"),
        ("a=-1,b=2", "write NAME=SHARE, such as train=0.95,validation=0.05"),
    ],
)
def test_impossible_splits(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_split(text)
    assert str(caught.value) == f"--split {text}: {message}"


def test_shares_as_given() -> None:
    assert parse_split("train=0.95,validation=0.05") == (SplitShare("train", 0.95), SplitShare("validation", 0.05))
    assert parse_split(None) == ()


def test_encoded_anew_only_when_asked_and_recorded(export: Callable[..., Path]) -> None:
    before, folder = samples(export()), export("--resize", 32, "--reencode", "webp:80")
    index, after = index_of(folder), samples(folder)
    assert (index["extension"], index["encoded"]["resize_px"], index["encoded"]["reencode"]) == ("webp", 32, "webp:80")
    assert list(after) == list(before)
    for key, sample in after.items():
        meta, was = json.loads(sample["json"]), json.loads(before[key]["json"])
        for side in ("preferred", "rejected"):
            data = sample[f"{side}.webp"]
            assert Image.open(io.BytesIO(data)).size == (32, 32)
            assert hashlib.sha256(data).hexdigest() == meta[side]["sha256"]
            assert meta[side]["source_sha256"] == was[side]["sha256"]
            assert (meta[side]["format"], meta[side]["width"], meta[side]["height"]) == ("WEBP", 32, 32)
    assert "source_sha256" not in was["preferred"]


def test_resizing_shrinks_only_what_is_larger() -> None:
    """The shorter side counts, the format stays, and what needs no change keeps its bytes."""
    wide = picture_bytes(1, (120, 60), "PNG")
    data, kind, width, height = encoded_anew(wide, Encoding(30), "here")
    assert (kind, width, height) == ("PNG", 60, 30)
    assert Image.open(io.BytesIO(data)).size == (60, 30)
    assert encoded_anew(wide, Encoding(60), "here") == (wide, "PNG", 120, 60)
    assert encoded_anew(picture_bytes(1, form="GIF"), Encoding(30), "here")[1] == "PNG"


@pytest.mark.parametrize("text", ["jpeg:0", "jpeg:101", "jpeg:x", "tiff", "png:9"])
def test_impossible_encodings(text: str) -> None:
    with pytest.raises(UsageError, match=f"--reencode {text}: "):
        parse_encoding(None, text)


def test_run_without_sizes_of_images_exports_the_same(
    export: Callable[..., Path], run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a run made before images were measured; they are read into a spool first."""
    wanted = hashes(export("--pairs-per-shard", 20))
    monkeypatch.setattr("curate.export.samples.MEASURED", "no_such_column")
    assert hashes(export("--pairs-per-shard", 20)) == wanted


def test_sound_shards_stay_and_others_are_made_again(
    export: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = export("--pairs-per-shard", 20)
    wanted, index = hashes(folder), (folder / "shards.json").read_text()
    tars = sorted(folder.glob("*.tar"))
    kept = {path: path.stat().st_ino for path in tars}
    with tars[1].open("r+b") as stream:
        stream.seek(5000)
        stream.write(b"damage")
    export("--pairs-per-shard", 20, output=folder)
    assert hashes(folder) == wanted
    assert (folder / "shards.json").read_text() == index
    assert [path.stat().st_ino == kept[path] for path in tars] == [True, False, True]


def test_from_splits_to_none_and_back_leaves_nothing_over(export: Callable[..., Path]) -> None:
    folder = export("--split", "a=0.5,b=0.5")
    export(output=folder)
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "pairs-000000.tar", "shards.json"]
    export("--split", "a=0.5,c=0.5", output=folder)
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "a", "c", "splits.json"]


KILLED = """
import os, signal, sys
from curate import cli
from curate.export.destination import Destination
from curate.export.layouts import store
from curate.sources.parquet import Source
store.ROW_GROUPS_TOGETHER = 1
read, units = Source.read_images, []
def read_or_die(self, places):
    if len(units) == int(sys.argv[1]): os.kill(os.getpid(), signal.SIGKILL)
    units.append(1)
    return read(self, places)
Source.read_images = read_or_die
publish, published = Destination.publish, []
def counted(self, name):
    if len(published) == int(sys.argv[2]): os.kill(os.getpid(), signal.SIGKILL)
    published.append(name)
    publish(self, name)
Destination.publish = counted
cli.app(sys.argv[3:], standalone_mode=False)
print(len(units))
"""


def test_killed_at_any_moment_then_again(export: Callable[..., Path], run: Path, tmp_path: Path) -> None:
    """No partial tar under a final name; the next run reads only row groups that are not noted, and ends the same."""
    wanted = hashes(export("--pairs-per-shard", 20))
    folder = tmp_path / "killed"
    arguments = ["export-shards", "--run", str(run), "--name", "every", "--output", str(folder), "--workers", "1"]
    arguments += ["--pairs-per-shard", "20"]

    def attempt(units: int, published: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", KILLED, str(units), str(published), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    for units, published, standing in ((6, 99, 0), (4, 99, 0), (99, 1, 1)):
        assert attempt(units, published).returncode == -signal.SIGKILL
        assert not (folder / "shards.json").exists()
        assert len(hashes(folder)) == standing
        assert all(wanted[name] == sha256 for name, sha256 in hashes(folder).items())
    last = attempt(99, 99)
    assert last.returncode == 0, last.stderr
    assert int(last.stdout.splitlines()[-1]) <= 3  # row groups of twelve: the others were noted
    assert hashes(folder) == wanted
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", *sorted(wanted), "shards.json"]


def test_a_note_about_other_bytes_is_not_believed(export: Callable[..., Path], run: Path, tmp_path: Path) -> None:
    """Killed in rank order, killed shuffled (as many bytes under the same name), then finished in rank order."""
    wanted = hashes(export())
    folder = tmp_path / "killed"
    plain = ["export-shards", "--run", str(run), "--name", "every", "--output", str(folder), "--workers", "1"]
    shuffled = [*plain, "--order", "shuffle", "--seed", "1"]
    for units, arguments in ((6, plain), (0, shuffled)):
        command = [sys.executable, "-c", KILLED, str(units), "99", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr
    assert hashes(export(output=folder)) == wanted


def test_two_exports_into_one_folder(export: Callable[..., Path], curate: Curate, run: Path, tmp_path: Path) -> None:
    import fcntl

    folder = tmp_path / "held"
    folder.mkdir()
    descriptor = os.open(folder, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    stopped = curate("export-shards", "--run", run, "--name", "every", "--output", folder)
    os.close(descriptor)
    assert (stopped.code, stopped.out) == (1, "")
    assert stopped.err == (f"curate: another process exports into {folder}; wait for it, or use another --output\n")
    export(output=folder)


def test_a_card_of_ones_own_stays(export: Callable[..., Path], tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "README.md").write_text("mine")
    export(output=folder)
    assert (folder / "README.md").read_text() == "mine"


def test_touched_source_is_read_and_said(
    export: Callable[..., Path], curate: Curate, ranked_run: Path, run: Path, tmp_path: Path
) -> None:
    """Another time of change with the same size: every image is compared with its sha256 anyway."""
    source = ranked_run.parent / "source" / "train-0.parquet"
    before = source.stat()
    os.utime(source, (time.time(), time.time() + 5))
    done = curate("export-shards", "--run", run, "--name", "every", "--output", tmp_path / "touched")
    os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert done.code == 0
    assert f"note: {source} changed since it was embedded: modified " in done.err


@pytest.mark.parametrize(("form", "size"), [("WEBP", (16_384, 164)), ("JPEG", (65_501, 656))])
def test_a_picture_too_wide_for_a_format_is_named(form: str, size: tuple[int, int]) -> None:
    buffer = io.BytesIO()
    Image.new("1", size).save(buffer, "PNG")
    with pytest.raises(SourceError) as caught:
        encoded_anew(buffer.getvalue(), Encoding(None, form), "row 3 of a.parquet")
    said = str(caught.value)
    assert said.startswith(f"row 3 of a.parquet: {size[0]:,} x {size[1]} px cannot be written as {form} (")
    assert said.endswith("); give --resize or png")
    assert encoded_anew(buffer.getvalue(), Encoding(4, form), "")[3] == 4
