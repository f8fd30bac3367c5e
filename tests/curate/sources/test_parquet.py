"""Source files as canonical pairs: every way Parquet stores the columns, bytes by location, and what is refused."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import fsspec
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tomli_w

from curate.errors import SourceError
from curate.sources.manifest import load_manifest
from curate.sources.opening import open_source, reopen_source
from curate.sources.parquet import Location, Source
from curate.storage.folder import LocalFolder
from tests.curate.builders import PICKAPIC, pair_row, picture_bytes, write_pairs

SIZES = ("image_0_size_bytes", "image_1_size_bytes")
KEYS = [
    "prompt", "image_0_uid", "image_1_uid", "image_0_model", "image_1_model", "label_0", "label_1",
    "labelled", "annotator_id", "judgement_id", *SIZES, "source_file", "source_row_group", "source_row",
]  # fmt: skip


def opened(*files: object) -> Source:
    return open_source(load_manifest("pickapic_v2"), None, [str(file) for file in files])


def described(folder: Path, columns: dict[str, str], files: list[str] | None = None) -> Source:
    """A manifest of one's own in `folder`, opened."""
    path = folder / "mine.toml"
    path.write_text(tomli_w.dumps({"splits": {"train": {"files": files or ["*.parquet"]}}, "columns": columns}))
    return open_source(load_manifest(str(path)), None)


def keys(source: Source) -> list[dict[str, Any]]:
    return [row for table in source.key_rows() for row in table.to_pylist()]


def without_file(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key not in ("source_file", *SIZES)} for row in rows]


def first_pictures(source: Source) -> list[bytes | None]:
    """Both images of the first row."""
    place = next(iter(source.files))
    found = source.image_bytes([Location(place, 0, 0, side) for side in (0, 1)])
    return [found[Location(place, 0, 0, side)] for side in (0, 1)]


def error_of(source: Source) -> str:
    with pytest.raises(SourceError) as caught:
        list(source.key_rows())
    assert caught.value.exit_code == 1
    return str(caught.value)


def test_rows_under_our_names(source_file: Path) -> None:
    rows = keys(opened(source_file))
    assert len(rows) == 20
    assert list(rows[0]) == KEYS
    assert all(1_000 < rows[7].pop(name) < 3_000 for name in SIZES)
    assert rows[7] == {
        "prompt": "a red circle number 1", "image_0_uid": "image-7", "image_1_uid": "image-8",
        "image_0_model": "alpha", "image_1_model": "beta", "label_0": 1.0, "label_1": 0.0, "labelled": True,
        "annotator_id": "1", "judgement_id": "7",
        "source_file": str(source_file), "source_row_group": 1, "source_row": 2,
    }  # fmt: skip


def test_bytes_come_back_by_location(source_file: Path) -> None:
    places = [Location(str(source_file), group, row, side) for group in (3, 0) for row in (4, 1) for side in (0, 1)]
    found = opened(source_file).image_bytes(places)
    assert found == {p: picture_bytes(5 * p.row_group + p.row + p.side) for p in places}


def test_each_row_group_is_read_once(source_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    whole = pq.ParquetFile.iter_batches

    def counted(self: pq.ParquetFile, rows: int, **options: Any) -> Iterator[pa.RecordBatch]:
        reads.extend(options["row_groups"])
        return whole(self, rows, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    places = [Location(str(source_file), group, row, side) for row in range(5) for group in (2, 1) for side in (1, 0)]
    opened(source_file).image_bytes(places)
    assert reads == [1, 2]


STORED = {
    "string": PICKAPIC,
    "large": pa.schema(
        [
            pa.field(f.name, {pa.string(): pa.large_string(), pa.binary(): pa.large_binary()}.get(f.type, f.type))
            for f in PICKAPIC
        ]
    ),
    "dictionary": pa.schema(
        [pa.field(f.name, pa.dictionary(pa.int32(), f.type) if f.type == pa.string() else f.type) for f in PICKAPIC]
    ),
    "views": pa.schema(
        [
            pa.field(f.name, {pa.string(): pa.string_view(), pa.binary(): pa.binary_view()}.get(f.type, f.type))
            for f in PICKAPIC
        ]
    ),
    "dictionaries of pictures": pa.schema(
        [pa.field(f.name, pa.dictionary(pa.int32(), f.type) if f.type == pa.binary() else f.type) for f in PICKAPIC]
    ),
    "decimals": PICKAPIC.set(7, pa.field("label_0", pa.decimal128(2, 1))).set(10, pa.field("user_id", pa.float64())),
    "flags for labels": PICKAPIC.set(7, pa.field("label_0", pa.bool_())).set(8, pa.field("label_1", pa.bool_())),
    "small numbers": PICKAPIC.set(7, pa.field("label_0", pa.float32())).set(8, pa.field("label_1", pa.int8())),
}


@pytest.mark.parametrize("stored", STORED)
def test_storage_types_make_no_difference(tmp_path: Path, source_file: Path, stored: str) -> None:
    table = pq.read_table(source_file)
    pq.write_table(table.cast(STORED[stored]), tmp_path / "other.parquet", row_group_size=5)
    other = opened(tmp_path / "other.parquet")
    assert without_file(keys(other)) == without_file(keys(opened(source_file)))
    assert first_pictures(other) == [picture_bytes(0), picture_bytes(1)]


def test_file_written_by_polars(tmp_path: Path, source_file: Path) -> None:
    frame = pl.read_parquet(source_file).with_columns(pl.col("caption", "model_0").cast(pl.Categorical))
    frame.write_parquet(tmp_path / "polars.parquet", row_group_size=5)
    assert without_file(keys(opened(tmp_path / "polars.parquet"))) == without_file(keys(opened(source_file)))


def test_column_of_nulls_only_has_no_type(tmp_path: Path, source_file: Path) -> None:
    """pandas and polars write such a column with the type null."""
    pl.read_parquet(source_file).with_columns(user_id=None).write_parquet(tmp_path / "nulls.parquet")
    assert {row["annotator_id"] for row in keys(opened(tmp_path / "nulls.parquet"))} == {None}


def test_images_of_nulls_only_are_missing(tmp_path: Path, source_file: Path) -> None:
    table = pl.read_parquet(source_file).with_columns(jpg_0=None)
    table.write_parquet(tmp_path / "nulls.parquet")
    assert first_pictures(opened(tmp_path / "nulls.parquet")) == [None, picture_bytes(1)]


def test_uuids_are_text_as_everyone_writes_them(tmp_path: Path, source_file: Path) -> None:
    table = pq.read_table(source_file)
    uids = pa.array([index.to_bytes(16) for index in range(20)], pa.uuid())
    pq.write_table(table.set_column(1, "image_0_uid", uids), tmp_path / "uuid.parquet")
    assert keys(opened(tmp_path / "uuid.parquet"))[17]["image_0_uid"] == "00000000-0000-0000-0000-000000000011"


def test_pandas_ids_are_whole_numbers_beside_a_null(tmp_path: Path, source_file: Path) -> None:
    ids = pl.Series([None, float("nan"), *map(float, range(18))])
    pl.read_parquet(source_file).with_columns(user_id=ids).write_parquet(tmp_path / "pandas.parquet")
    assert [row["annotator_id"] for row in keys(opened(tmp_path / "pandas.parquet"))][:4] == [None, None, "0", "1"]


def test_two_columns_of_one_name_are_refused(tmp_path: Path, source_file: Path) -> None:
    table = pq.read_table(source_file)
    pq.write_table(table.append_column("caption", table["caption"]), tmp_path / "doubled.parquet")
    assert error_of(opened(tmp_path / "doubled.parquet")) == (
        f"{tmp_path}/doubled.parquet: 2 columns are named 'caption'; rename all but one"
    )


@pytest.mark.parametrize("column", ["caption", "image_0_uid", "model_1"])
def test_text_that_is_no_utf8_is_marked(tmp_path: Path, source_file: Path, column: str) -> None:
    table = pq.read_table(source_file)
    at = table.schema.get_field_index(column)
    pq.write_table(table.set_column(at, column, latin_1(table[column].to_pylist(), 7)), tmp_path / "latin.parquet")
    rows = keys(opened(tmp_path / "latin.parquet"))
    assert [index for index, row in enumerate(rows) if row.get("bad_text")] == [7]


def latin_1(values: list[str], row: int) -> pa.Array:
    """The values with a byte in one row that is no UTF-8, as some writers leave it."""
    raw = pa.array([b"caf\xe9" if index == row else value.encode() for index, value in enumerate(values)], pa.binary())
    return pa.Array.from_buffers(pa.string(), len(raw), raw.buffers())


def test_hugging_face_image_columns(tmp_path: Path) -> None:
    values = [{"bytes": picture_bytes(0), "path": "0.jpg"}, {"bytes": None, "path": None}, None]
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"p": ["a", "b", "c"], "a": pa.array(values, struct), "b": pa.array(values[::-1], struct)})
    pq.write_table(table, tmp_path / "hf.parquet")
    source = described(tmp_path, {"prompt": "p", "image_0_bytes": "a", "image_1_bytes": "b"})
    uids = [row["image_0_uid"] for row in keys(source)]
    assert uids == [row["image_1_uid"] for row in keys(source)][::-1]
    assert [uid is None for uid in uids] == [False, True, True]
    assert first_pictures(source) == [picture_bytes(0), None]


def test_hugging_face_images_by_their_path(tmp_path: Path) -> None:
    """As `to_parquet` of datasets writes pictures that it was given by path: their bytes are null."""
    (tmp_path / "one.png").write_bytes(b"one")
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    paths = [{"bytes": None, "path": f"{tmp_path}/one.png"}, {"bytes": b"own", "path": f"{tmp_path}/one.png"}]
    table = pa.table({"p": ["a", "b"], "a": pa.array(paths, struct), "b": pa.array(paths[::-1], struct)})
    pq.write_table(table, tmp_path / "hf.parquet")
    source = described(tmp_path, {"prompt": "p", "image_0_bytes": "a", "image_1_bytes": "b"})
    assert first_pictures(source) == [b"one", b"own"]
    assert [row["image_0_uid"] for row in keys(source)] == [f"{tmp_path}/one.png", hashlib.sha256(b"own").hexdigest()]


def test_a_path_need_not_be_utf8(tmp_path: Path) -> None:
    """Its row can be read where a uid stands beside it; without one it is set aside."""
    (tmp_path / os.fsdecode(b"caf\xe9")).write_bytes(b"picture")
    table = pa.table({"p": ["a", "b"], "a": latin_1(["", "y.png"], 0), "b": ["x.png", "y.png"], "u": ["1", "2"]})
    pq.write_table(table, tmp_path / "p.parquet")
    assert first_pictures(described(tmp_path, PATHS | {"image_0_uid": "u", "image_1_uid": "u"})) == [b"picture", None]
    assert [row["bad_text"] for row in keys(described(tmp_path, PATHS))] == [True, False]


def test_what_is_read_in_batches_is_read_again_after_a_failure_that_passes(
    source_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A row group is read a row at a time; the fifth read fails once, and no row comes twice or is left out."""
    whole, reads = pq.ParquetFile.iter_batches, []

    def failing(self: pq.ParquetFile, rows: int, **options: Any) -> Iterator[pa.RecordBatch]:
        for batch in whole(self, rows, **options):
            reads.append(batch.num_rows)
            if len(reads) == 4:
                raise ConnectionResetError("reset by peer")
            yield batch

    monkeypatch.setattr("curate.sources.columns.BATCH_BYTES", 1)
    monkeypatch.setattr("curate.storage.files.RETRY_WAITS_SEC", (0.0,))
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", failing)
    places = [Location(str(source_file), 0, row, side) for row in range(5) for side in (0, 1)]
    found = list(opened(source_file).read_images(places))
    assert [place for place, _ in found] == places
    assert [bytes(data or b"") for _, data in found] == [picture_bytes(place.row + place.side) for place in places]
    assert reads == [1] * 9
    assert "row group 0: ConnectionResetError: reset by peer; trying again" in capsys.readouterr().err


def test_a_row_that_is_gone_is_said(source_file: Path) -> None:
    with pytest.raises(SourceError, match=r"row group 0, row 5, image 1 is not there any more"):
        opened(source_file).image_bytes([Location(str(source_file), 0, 5, 1)])


def test_a_large_row_group_at_a_url_is_read_piece_by_piece(source_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with fsspec.open("memory://large/train-0.parquet", "wb", auto_mkdir=True) as stream:
        stream.write(source_file.read_bytes())
    options = []
    real = pq.ParquetFile

    def recorded(stream: Any, **given: Any) -> pq.ParquetFile:
        options.append({key: value for key, value in given.items() if key != "metadata"})
        return real(stream, **given)

    monkeypatch.setattr("curate.sources.parquet.pq.ParquetFile", recorded)
    monkeypatch.setattr("curate.sources.parquet.WHOLE_GROUP_BYTES", 10_000)
    assert first_pictures(opened("memory://large/train-0.parquet")) == [picture_bytes(0), picture_bytes(1)]
    assert options == [{"pre_buffer": True}, {"buffer_size": 8 * 1024 * 1024, "pre_buffer": False}]


def test_uid_from_bytes_is_their_sha256(tmp_path: Path) -> None:
    table = pa.table({"p": ["a", "b"], "a": [b"x", b"y"], "b": [b"y", None]})
    pq.write_table(table, tmp_path / "bytes.parquet")
    rows = keys(described(tmp_path, {"prompt": "p", "image_0_bytes": "a", "image_1_bytes": "b"}))
    assert rows[0]["image_1_uid"] == rows[1]["image_0_uid"]
    assert rows[0]["image_0_uid"] == "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    assert rows[1]["image_1_uid"] is None


PATHS = {"prompt": "p", "image_0_path": "a", "image_1_path": "b"}


def test_paths_relative_absolute_and_url(tmp_path: Path) -> None:
    """A relative path starts from the Parquet's folder, not from the current one."""
    (tmp_path / "pairs" / "images").mkdir(parents=True)
    for name in ("pairs/images/one.png", "two.png", "three.png"):
        (tmp_path / name).write_bytes(name.encode())
    rows = {"p": ["a", "b"], "a": ["images/one.png", f"{tmp_path}/two.png"]}
    rows["b"] = [f"file://{tmp_path}/three.png", "images/none.png"]
    pq.write_table(pa.table(rows), tmp_path / "pairs" / "p.parquet")
    source = described(tmp_path, PATHS, ["pairs/p.parquet"])
    place = source.files[0]
    found = source.image_bytes([Location(place, 0, row, side) for row in (0, 1) for side in (0, 1)])
    assert list(found.values()) == [b"pairs/images/one.png", b"three.png", b"two.png", None]
    assert [row["image_0_uid"] for row in keys(source)] == rows["a"]


def test_relative_paths_of_two_folders_are_no_uids(tmp_path: Path) -> None:
    """`x.png` beside one file is not `x.png` beside another; absolute paths and uids tell them apart."""
    table = pa.table({"p": ["a"], "a": ["x.png"], "b": ["y.png"]})
    absolute = pa.table({"p": ["a"], "a": ["/x.png"], "b": ["s3://b/y.png"]})
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        pq.write_table(table, tmp_path / folder / "relative.parquet")
        pq.write_table(absolute, tmp_path / folder / "absolute.parquet")
    assert error_of(described(tmp_path, PATHS, ["*/relative.parquet"])) == (
        f"{tmp_path}/one/relative.parquet: column 'a' holds relative paths and the files lie in 2 folders, so equal "
        "paths may be different images; map columns.image_0_uid and columns.image_1_uid, or read one folder"
    )
    assert len(keys(described(tmp_path, PATHS, ["*/absolute.parquet"]))) == 2
    with_uids = PATHS | {"image_0_uid": "p", "image_1_uid": "b"}
    assert len(keys(described(tmp_path, with_uids, ["*/relative.parquet"]))) == 2
    assert len(keys(described(tmp_path, PATHS, ["one/relative.parquet"]))) == 1


@pytest.mark.parametrize("value", ["", ".", "p.parquet/x.png", "nosuch://x", "a\0b", "x" * 300, "loop", None])
def test_unreadable_path_has_no_bytes(tmp_path: Path, value: str | None) -> None:
    (tmp_path / "loop").symlink_to("loop")
    table = pa.table({"p": ["a"], "a": pa.array([value], pa.string()), "b": ["p.parquet"]})
    pq.write_table(table, tmp_path / "p.parquet")
    assert first_pictures(described(tmp_path, PATHS)) == [None, (tmp_path / "p.parquet").read_bytes()]


@pytest.mark.parametrize("scheme", ["file://", "memory://"])
def test_urls(tmp_path: Path, source_file: Path, scheme: str) -> None:
    folder = f"{scheme}{tmp_path}/urls" if scheme == "file://" else "memory://urls"
    with fsspec.open(f"{folder}/train-0.parquet", "wb", auto_mkdir=True) as stream:
        stream.write(source_file.read_bytes())
    source = opened(f"{folder}/train-*.parquet")
    assert source.files[0].startswith(scheme)
    assert without_file(keys(source)) == without_file(keys(opened(source_file)))
    assert first_pictures(source) == [picture_bytes(0), picture_bytes(1)]
    assert [one["size"] for one in source.fingerprints().values()] == [source_file.stat().st_size]


def test_files_are_sorted_and_named_once(tmp_path: Path, source_file: Path) -> None:
    other = write_pairs(tmp_path / "source" / "train-1.parquet", [pair_row(0)])
    assert opened(other, f"{tmp_path}/source/*.parquet", source_file).files == (str(source_file), str(other))


def test_manifests_relative_files_start_from_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source_file: Path
) -> None:
    monkeypatch.chdir("/")
    columns = {"prompt": "caption", "image_0_bytes": "jpg_0", "image_1_bytes": "jpg_1"}
    assert described(tmp_path, columns, ["source/*.parquet"]).files == (str(source_file),)


@pytest.mark.parametrize("folder", ["pick [v2]", "a*b", "what?", "a::b", "back\\slash"])
@pytest.mark.parametrize("scheme", ["", "memory://"])
def test_names_are_taken_literally_first(tmp_path: Path, source_file: Path, folder: str, scheme: str) -> None:
    """As a pattern `pick [v2]` would be `pick v`; below a folder of such a name the rest may still be a pattern."""
    if scheme and "::" in folder:
        pytest.skip("no such name at a URL")
    place = f"{scheme}{tmp_path}/{folder}"
    with fsspec.open(f"{place}/t[0].parquet", "wb") if scheme else nullcontext() as stream:
        if stream:
            stream.write(source_file.read_bytes())
        else:
            (tmp_path / folder).mkdir()
            (tmp_path / folder / "t[0].parquet").write_bytes(source_file.read_bytes())
    for pattern in ("t[0].parquet", "t*.parquet", ""):
        source = opened(f"{place}/{pattern}".rstrip("/"))
        assert source.files == (f"{place}/t[0].parquet",), pattern
        assert first_pictures(source) == [picture_bytes(0), picture_bytes(1)]


@pytest.mark.parametrize("pattern", ["none-*.parquet", "empty"])
def test_no_file_matches(tmp_path: Path, source_file: Path, pattern: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError) as caught:
        opened(tmp_path / pattern)
    assert str(caught.value) == f"no file matches {tmp_path / pattern}; correct --source or the manifest's files"


def test_unknown_protocol() -> None:
    with pytest.raises(SourceError) as caught:
        opened("nosuch://bucket/x.parquet")
    assert str(caught.value) == "cannot list nosuch://bucket/x.parquet: Protocol not known: nosuch"


def test_file_that_is_not_there(tmp_path: Path) -> None:
    message = error_of(opened(tmp_path / "gone.parquet"))
    assert message.startswith(f"{tmp_path}/gone.parquet cannot be opened: [Errno 2] No such file or directory")


def test_missing_column(tmp_path: Path, source_file: Path) -> None:
    table = pq.read_table(source_file)
    pq.write_table(table.rename_columns({"label_0": "label_zero"}), tmp_path / "a.parquet")
    assert error_of(opened(tmp_path / "a.parquet")) == (
        f"{tmp_path}/a.parquet: no column 'label_0', which pickapic_v2.toml maps to columns.label_0; "
        "did you mean 'label_1'?"
    )
    pq.write_table(pa.table({"y": [2], "x": [1]}), tmp_path / "b.parquet")
    assert error_of(opened(tmp_path / "b.parquet")) == (
        f"{tmp_path}/b.parquet: no column 'caption', which pickapic_v2.toml maps to columns.prompt; it has y, x"
    )


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("caption", [1, 2], "column 'caption' holds int64, but columns.prompt needs text"),
        (
            "label_0",
            [[0], [1]],
            "column 'label_0' holds list<element: int64>, but columns.label_0 needs a number or text",
        ),
        ("has_label", [1, 0], "column 'has_label' holds int64, but columns.labelled needs true or false"),
        ("jpg_0", ["a", "b"], "column 'jpg_0' holds string, but columns.image_0_bytes needs bytes"),
        ("user_id", [1.5, 2.5], "column 'user_id' holds double, but columns.annotator_id needs text or a whole number"),
        ("jpg_1", [[1], [2]], "column 'jpg_1' holds list<element: int64>, but columns.image_1_bytes needs bytes"),
    ],
)
def test_mistyped_column(tmp_path: Path, column: str, values: list[Any], message: str) -> None:
    table = pa.Table.from_pylist([pair_row(0), pair_row(1)], schema=PICKAPIC)
    table = table.set_column(table.schema.get_field_index(column), column, pa.array(values))
    pq.write_table(table, tmp_path / "a.parquet")
    assert error_of(opened(tmp_path / "a.parquet")) == (
        f"{tmp_path}/a.parquet: {message}; correct pickapic_v2.toml or the file"
    )


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not parquet at all, but a good deal of text"])
def test_not_parquet(tmp_path: Path, source_file: Path, content: bytes) -> None:
    """One such file among good ones is named; nothing is read past it silently."""
    bad = tmp_path / "source" / "train-1.parquet"
    bad.write_bytes(content)
    message = error_of(opened(tmp_path / "source" / "*.parquet"))
    assert message.startswith(f"{bad} is not a Parquet file (")
    assert message.endswith("); remove it or correct --source")


def test_truncated_parquet(tmp_path: Path, source_file: Path) -> None:
    whole = source_file.read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    assert error_of(opened(tmp_path / "cut.parquet")).startswith(f"{tmp_path}/cut.parquet is not a Parquet file (")


def test_damaged_row_group(tmp_path: Path, source_file: Path) -> None:
    """A footer that reads and pages that do not: a download with a hole in it."""
    data = bytearray(source_file.read_bytes())
    data[4 : len(data) // 2] = bytes(len(data) // 2 - 4)
    (tmp_path / "hole.parquet").write_bytes(data)
    message = error_of(opened(tmp_path / "hole.parquet"))
    assert message.startswith(f"{tmp_path}/hole.parquet: row group 0 cannot be read (")
    assert message.endswith("); fetch the file again")


def test_reopened_source_notices_a_changed_or_missing_file(source_file: Path) -> None:
    source = opened(source_file)
    settings = {"manifest": source.manifest.settings(), "split": "train", "files": source.fingerprints()}
    here = LocalFolder(source_file.parent)
    assert first_pictures(reopen_source(settings, here)) == [
        picture_bytes(0),
        picture_bytes(1),
    ]
    size = source_file.stat().st_size
    source_file.write_bytes(source_file.read_bytes() + b"x")
    with pytest.raises(SourceError) as caught:
        reopen_source(settings, LocalFolder(source_file.parent))
    assert str(caught.value) == (
        f"{source_file} changed since it was embedded: {size:,} bytes then, {size + 1:,} bytes now; embed it again"
    )
    source_file.unlink()
    with pytest.raises(SourceError) as caught:
        reopen_source(settings, LocalFolder(source_file.parent))
    assert str(caught.value) == f"{source_file} is not there; correct --source, or put it back"


def test_a_file_that_changes_while_it_is_read_is_named(source_file: Path) -> None:
    """Between the plan and a part: the same size, another time of change."""
    source = opened(source_file)
    assert len(keys(source)) == 20
    before = source.fingerprints()[str(source_file)]
    assert set(before) == {"size", "modified"}
    os.utime(source_file, ns=(0, 1_000_000_001))
    with pytest.raises(SourceError) as caught:
        first_pictures(source)
    assert str(caught.value) == (
        f"{source_file} changed since it was embedded: modified {before['modified']} then, "
        "1970-01-01T00:00:01.000000001 now; embed it again into another --run"
    )


def test_reopened_source_reads_a_touched_file_and_says_so(
    source_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = opened(source_file)
    settings = {"manifest": source.manifest.settings(), "split": "train", "files": source.fingerprints()}
    os.utime(source_file, ns=(0, 0))
    here = LocalFolder(source_file.parent)
    assert first_pictures(reopen_source(settings, here)) == [
        picture_bytes(0),
        picture_bytes(1),
    ]
    assert capsys.readouterr().err.startswith(f"note: {source_file} changed since it was embedded: modified ")
    earlier = settings | {"files": {str(source_file): source_file.stat().st_size}}  # as runs had it before
    assert first_pictures(reopen_source(earlier, here)) == [
        picture_bytes(0),
        picture_bytes(1),
    ]
    assert capsys.readouterr().err == ""
