"""Pictures by address: members of tars and zips, cells of Parquet files, archives that need unpacking."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.errors import SourceError
from curate.sources.layouts import members
from curate.sources.layouts.members import is_member, list_members, needs_unpacking, read_members, unpacked

PICTURES = {"a/1.png": b"one", "a/2.png": b"two", "b/3.png": b"three"}


def write_tar(path: Path, members: dict[str, bytes], extra: Callable[[tarfile.TarFile], None] = lambda _: None) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        extra(tar)
    return path


def write_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize(("write", "name"), [(write_tar, "i.tar"), (write_zip, "i.zip")])
def test_every_member_is_read_back_by_its_address(tmp_path: Path, write: Callable[..., Path], name: str) -> None:
    archive = str(write(tmp_path / name, PICTURES))
    addresses = {member.address(archive): member.name for member in list_members(archive)}
    assert all(map(is_member, addresses))
    found = dict(read_members(reversed(list(addresses))))
    assert {addresses[address]: data for address, data in found.items()} == PICTURES


def test_members_come_in_the_archives_order_whatever_order_they_are_asked_in(tmp_path: Path) -> None:
    archive = str(write_tar(tmp_path / "i.tar", PICTURES))
    addresses = [member.address(archive) for member in list_members(archive)]
    assert [address for address, _ in read_members(reversed(addresses))] == addresses


def test_what_is_not_there_is_none(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "i.zip", PICTURES)
    assert list(read_members([f"{archive}::a/9.png"])) == [(f"{archive}::a/9.png", None)]


def test_links_devices_and_names_that_climb_out_are_no_members(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def extra(tar: tarfile.TarFile) -> None:
        for name, kind in (("link.png", tarfile.SYMTYPE), ("hard.png", tarfile.LNKTYPE), ("device", tarfile.CHRTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)

    archive = write_tar(tmp_path / "i.tar", {"./a.png": b"a", "../b.png": b"b", "/c.png": b"c"}, extra)
    assert [member.name for member in list_members(str(archive))] == ["a.png"]
    assert "2 members are left out" in capsys.readouterr().err


@pytest.mark.parametrize(("write", "name"), [(write_tar, "i.tar"), (write_zip, "i.zip")])
def test_what_is_larger_than_any_picture_is_left_out(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    write: Callable[..., Path],
    name: str,
) -> None:
    monkeypatch.setattr(members, "MOST_MEMBER_BYTES", 4)
    archive = str(write(tmp_path / name, PICTURES))
    assert [member.name for member in list_members(archive)] == ["a/1.png", "a/2.png"]
    assert "1 members are left out" in (said := capsys.readouterr().err)
    assert said.endswith("more than 4 bytes, first 'b/3.png'\n")


def test_a_member_that_hides_its_size_fills_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "MOST_MEMBER_BYTES", 1000)
    archive = write_zip(tmp_path / "i.zip", {"bomb.png": b"0" * 100_000})
    assert list(read_members([f"{archive}::bomb.png"])) == [(f"{archive}::bomb.png", b"")]


def test_two_members_of_one_name_are_neither(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def extra(tar: tarfile.TarFile) -> None:
        info = tarfile.TarInfo("./a.png")
        info.size = 1
        tar.addfile(info, io.BytesIO(b"x"))

    archive = write_tar(tmp_path / "i.tar", {"a.png": b"a", "b.png": b"b"}, extra)
    assert [member.name for member in list_members(str(archive))] == ["b.png"]
    assert "first 'a.png'" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["i.tar", "i.zip"])
def test_an_archive_that_ends_early_is_named(tmp_path: Path, name: str) -> None:
    archive = (write_zip if name.endswith("zip") else write_tar)(tmp_path / name, {"a.png": b"x" * 5000})
    archive.write_bytes(archive.read_bytes()[: 3000 if name.endswith("tar") else 60])
    with pytest.raises(SourceError, match=rf"{name} is no whole archive .*; fetch it again"):
        list_members(str(archive))


def test_a_damaged_member_costs_its_own_picture(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "i.zip", {"a.png": b"a" * 100, "b.png": bytes(range(200))})
    data = bytearray(archive.read_bytes())
    place = data.index(bytes(range(50, 90)))  # stored as it is within the deflated bytes
    data[place : place + 4] = b"????"
    archive.write_bytes(data)
    found = dict(read_members([f"{archive}::a.png", f"{archive}::b.png"]))
    assert found == {f"{archive}::a.png": b"a" * 100, f"{archive}::b.png": b""}


def test_cells_of_a_parquet_file(tmp_path: Path) -> None:
    images = [{"bytes": b"A", "path": None}, None, {"bytes": b"C", "path": None}, {"bytes": None, "path": "x"}]
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"image": images, "raw": [b"1", b"2", b"3", b"4"]}), path, row_group_size=2)
    wanted = [f"{path}::{column}/{row}" for row in (3, 0, 1, 2) for column in ("image", "raw")]
    found = {address.rpartition("::")[2]: data for address, data in read_members(wanted)}
    assert found == {
        **{"image/0": b"A", "image/1": None, "image/2": b"C", "image/3": None},
        **{"raw/0": b"1", "raw/1": b"2", "raw/2": b"3", "raw/3": b"4"},
    }


PACKERS: dict[str, Callable[[bytes], bytes]] = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}


@pytest.mark.parametrize("kind", PACKERS)
@pytest.mark.parametrize("pieces", [1, 3])
def test_a_compressed_tar_in_pieces_becomes_one_tar(tmp_path: Path, kind: str, pieces: int) -> None:
    packed = PACKERS[kind](write_tar(tmp_path / "plain.tar", PICTURES).read_bytes())
    size = -(-len(packed) // pieces)
    names = [f"images.tar.{kind}" + (f".a{place}" if pieces > 1 else "") for place in range(pieces)]
    files = tuple(str(tmp_path / name) for name in names)
    for place, file in enumerate(files):
        Path(file).write_bytes(packed[place * size : (place + 1) * size])
    assert needs_unpacking(files)
    tar = unpacked(tuple(reversed(files)), tmp_path / "out")
    assert Path(tar).read_bytes() == (tmp_path / "plain.tar").read_bytes()
    before = Path(tar).stat().st_mtime_ns
    assert unpacked(files, tmp_path / "out") == tar
    assert Path(tar).stat().st_mtime_ns == before


def test_pieces_of_a_plain_tar(tmp_path: Path) -> None:
    data = write_tar(tmp_path / "plain.tar", PICTURES).read_bytes()
    files = (str(tmp_path / "images.tar.part0"), str(tmp_path / "images.tar.part1"))
    Path(files[0]).write_bytes(data[:700])
    Path(files[1]).write_bytes(data[700:])
    assert needs_unpacking(files)
    assert Path(unpacked(files, tmp_path / "out")).read_bytes() == data


def test_pieces_follow_each_other_by_number(tmp_path: Path) -> None:
    data = write_tar(tmp_path / "plain.tar", PICTURES).read_bytes()
    files = tuple(str(tmp_path / f"images.tar.part{place}") for place in range(12))
    size = -(-len(data) // 12)
    for place, file in enumerate(files):
        Path(file).write_bytes(data[place * size : (place + 1) * size])
    assert Path(unpacked(files, tmp_path / "out")).read_bytes() == data


def test_a_plain_tar_needs_no_unpacking() -> None:
    assert not needs_unpacking(("images.tar",))
    assert not needs_unpacking(("images.zip",))


def test_a_cut_archive_leaves_nothing_under_its_name(tmp_path: Path) -> None:
    packed = gzip.compress(write_tar(tmp_path / "plain.tar", {"a": b"x" * 50_000}).read_bytes())
    file = tmp_path / "images.tar.gz"
    file.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(SourceError, match=r"images.tar.gz is no whole archive"):
        unpacked((str(file),), tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".turn"]


def test_archives_of_one_name_lie_beside_each_other(tmp_path: Path) -> None:
    found = {}
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        packed = gzip.compress(write_tar(tmp_path / f"{place}.tar", {place: place.encode() * 99}).read_bytes())
        (tmp_path / place / "images.tar.gz").write_bytes(packed)
        found[place] = unpacked((str(tmp_path / place / "images.tar.gz"),), tmp_path / "out")
    assert {place: list_members(tar)[0].name for place, tar in found.items()} == {"one": "one", "two": "two"}


@pytest.mark.parametrize("kept", [1024, 1024 + 100])  # at a member's end, and within a header
def test_a_tar_that_ends_before_its_end_mark_is_named(tmp_path: Path, kept: int) -> None:
    tar = write_tar(tmp_path / "x.tar", {"1.png": b"one", "2.png": b"two"})
    tar.write_bytes(tar.read_bytes()[:kept])
    with pytest.raises(SourceError, match=r"no whole archive \(neither a member nor its end at byte 1,024\)"):
        list_members(str(tar))


def test_a_damaged_header_is_no_end(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "x.tar", {"1.png": b"one", "2.png": b"two", "3.png": b"three"})
    data = tar.read_bytes()
    tar.write_bytes(data[:1024] + b"\xff" * 512 + data[1536:])
    with pytest.raises(SourceError, match="at byte 1,024"):
        list_members(str(tar))


def test_a_damaged_compressed_member_costs_its_own_picture(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("1.png", bytes(range(256)) * 9)
        archive.writestr("2.png", b"two")
    data = bytearray(path.read_bytes())
    data[35:60] = b"\xff" * 25
    path.write_bytes(data)
    assert dict(read_members([f"{path}::1.png", f"{path}::2.png"])) == {f"{path}::1.png": b"", f"{path}::2.png": b"two"}


def test_an_address_that_leads_nowhere_is_a_sentence(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [b"1"]}), tmp_path / "x.parquet")
    with pytest.raises(SourceError, match=r"x\.parquet cannot be read: "):
        dict(read_members([f"{tmp_path}/x.parquet::image/7"]))
