"""Which rows stand and why others do not; counts add up; ids do not depend on how the source is laid out."""

import math
import pickle
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tomli_w
from hypothesis import given, settings, strategies as st

from curate.embed.planning.plan import Part, Plan, make_plan, stable_id
from curate.errors import SourceError
from curate.sources.manifest import load_manifest
from curate.sources.opening import open_source
from schemas import tables
from schemas.reasons import PAIR_REASONS
from tests.curate.builders import CONTROL_UID, PICKAPIC, pair_row

NO_PICTURE = {"jpg_0": b"", "jpg_1": b""}  # planning reads no image bytes


def key_row(index: int, **changes: Any) -> dict[str, Any]:
    return pair_row(index, **(NO_PICTURE | changes))


def write(path: Path, rows: list[dict[str, Any]], row_group_size: int = 5) -> Path:
    pq.write_table(pa.Table.from_pylist(rows, schema=PICKAPIC), path, row_group_size=row_group_size)
    return path


def planned(*files: Path, part_images: int = 4) -> Plan:
    return make_plan(open_source(load_manifest("pickapic_v2"), None, [str(file) for file in files]), part_images, 10**9)


def reasons(plan: Plan) -> list[str]:
    return plan.dropped["reason"].to_pylist()


def check_sums(plan: Plan) -> None:
    """In = out + Σ dropped, every reason is of the closed list, and tables keep their schemas."""
    assert plan.source_rows == plan.pairs.num_rows + plan.dropped.num_rows
    assert plan.counts()["source_rows"] == plan.counts()["pairs"] + sum(plan.counts()["dropped_pairs"].values())
    assert set(reasons(plan)) <= set(PAIR_REASONS)
    assert plan.pairs.schema.equals(tables.PAIRS)
    assert plan.dropped.schema.equals(tables.DROPPED)


def check_parts(plan: Plan) -> None:
    """Each image of a kept pair is in one part, once, with exactly the prompts that it is paired with."""
    expected: dict[str, set[str]] = {}
    for row in plan.pairs.to_pylist():
        for side in tables.IMAGE_SIDES:
            expected.setdefault(row[f"image_{side}_uid"], set()).add(row["prompt_id"])
    uids = [uid for part in plan.parts for uid, _ in part.images]
    assert sorted(uids) == sorted(expected)
    assert plan.image_count == len(expected)
    assert {uid: set(ids) for part in plan.parts for uid, ids in part.prompt_ids.items()} == expected
    assert all(len(ids) == len(set(ids)) for part in plan.parts for ids in part.prompt_ids.values())
    assert all(part.images for part in plan.parts)
    assert [part.name for part in plan.parts] == [f"part-{index:05d}" for index in range(len(plan.parts))]
    assert set(plan.prompts) == {row["prompt_id"] for row in plan.pairs.to_pylist()}


def row_groups(part: Part) -> set[tuple[str, int]]:
    return {(place.file, place.row_group) for _, place in part.images}


def check_row_groups(plan: Plan) -> None:
    """A row group is read by one part, by two when it is too large for one; who shares one has no other."""
    readers = Counter(group for part in plan.parts for group in row_groups(part))
    assert set(readers.values()) <= {1, 2}
    assert all(len(row_groups(part)) == 1 for part in plan.parts if any(readers[g] == 2 for g in row_groups(part)))


def test_labels_become_preferences(tmp_path: Path) -> None:
    """1 for image 0, 0 for image 1, and 0.5, a tie, keeps its row without a preference."""
    labels = [(1.0, 0.0), (0.0, 1.0), (0.5, 0.5)]
    plan = planned(write(tmp_path / "a.parquet", [key_row(i, label_0=a, label_1=b) for i, (a, b) in enumerate(labels)]))
    assert plan.pairs["preference"].to_pylist() == [0, 1, None]
    assert plan.dropped.num_rows == 0


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"label_0": None}, "bad_label"),
        ({"label_1": None}, "bad_label"),
        ({"label_0": math.nan}, "bad_label"),
        ({"label_0": 0.7, "label_1": 0.3}, "bad_label"),
        ({"label_0": 1.0, "label_1": 1.0}, "bad_label"),
        ({"label_0": 0.0, "label_1": 0.0}, "bad_label"),
        ({"label_0": -1.0, "label_1": 2.0}, "bad_label"),
        ({"label_0": math.inf, "label_1": -math.inf}, "bad_label"),
        ({"has_label": False}, "unlabelled"),
        ({"has_label": None}, "unlabelled"),
        ({"image_0_uid": CONTROL_UID}, "control_image"),
        ({"image_1_uid": CONTROL_UID}, "control_image"),
        ({"caption": None}, "empty_prompt"),
        ({"caption": ""}, "empty_prompt"),
        ({"caption": " \t\n\u00a0\u3000"}, "empty_prompt"),
        ({"image_0_uid": None}, "missing_image"),
        ({"image_1_uid": None}, "missing_image"),
        ({"image_1_uid": ""}, "missing_image"),
        ({"image_0_uid": "same", "image_1_uid": "same"}, "same_image"),
    ],
)
def test_reason(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    plan = planned(write(tmp_path / "a.parquet", [key_row(0), key_row(1, **changes), key_row(2)]))
    assert reasons(plan) == [reason]
    assert plan.pairs.num_rows == 2
    check_sums(plan)
    check_parts(plan)


def test_first_reason_wins(tmp_path: Path) -> None:
    """One row with every fault; mending the first named one shows the next."""
    faults: dict[str, dict[str, Any]] = {
        "unlabelled": {"has_label": False},
        "control_image": {"image_0_uid": CONTROL_UID, "image_1_uid": CONTROL_UID},
        "bad_label": {"label_0": None},
        "empty_prompt": {"caption": ""},
        "missing_image": {"image_0_uid": "x", "image_1_uid": None},
        "same_image": {"image_0_uid": "x", "image_1_uid": "x"},
    }
    for start, reason in enumerate(faults):
        row = key_row(0)
        for changes in reversed(list(faults.values())[start:]):
            row |= changes
        assert reasons(planned(write(tmp_path / f"{start}.parquet", [row, key_row(1)]))) == [reason]


def test_detail_says_where_and_what(tmp_path: Path) -> None:
    rows = [key_row(i) for i in range(6)] + [key_row(6, label_0=0.7), key_row(7, label_1=None), key_row(8, caption="")]
    path = write(tmp_path / "a.parquet", rows)
    details = planned(path).dropped["detail"].to_pylist()
    assert details == [
        f"{path} row group 1 row 1: label_0 0.7, label_1 1.0",
        f"{path} row group 1 row 2: label_0 1.0, label_1 null",
        f"{path} row group 1 row 3",
    ]


def test_same_judgement_counts_once(tmp_path: Path) -> None:
    """Another annotator, another judgement, another answer or swapped sides are not the same judgement."""
    swapped = {"image_0_uid": "image-1", "image_1_uid": "image-0", "label_0": 1.0, "label_1": 0.0}
    rows = [
        key_row(0),
        key_row(0),
        key_row(0, model_0="gamma"),
        key_row(0, user_id=9),
        key_row(0, ranking_id=9),
        key_row(0, label_0=1.0, label_1=0.0),
        key_row(0, **swapped),
    ]
    plan = planned(write(tmp_path / "a.parquet", rows))
    assert reasons(plan) == ["duplicate_pair", "duplicate_pair"]
    assert len(set(plan.pairs["pair_id"].to_pylist())) == plan.pairs.num_rows == 5
    check_sums(plan)


def test_faulty_copy_does_not_hide_a_good_one(tmp_path: Path) -> None:
    plan = planned(write(tmp_path / "a.parquet", [key_row(0, has_label=False), key_row(0)]))
    assert (plan.pairs.num_rows, reasons(plan)) == (1, ["unlabelled"])


@pytest.mark.parametrize(
    "prompt",
    ["word " * 2_000, "красный круг", "赤い丸", "🔴👩‍🚀", "دائرة حمراء", "\x07", "a\x00b", "\u202e", "  padded  "],
)
def test_prompts_are_kept_as_they_are(tmp_path: Path, prompt: str) -> None:
    plan = planned(write(tmp_path / "a.parquet", [key_row(0, caption=prompt)]))
    assert plan.prompts == {stable_id(prompt): prompt}
    assert plan.pairs["prompt_id"].to_pylist() == [stable_id(prompt)]


def test_part_takes_an_image_at_its_first_place(tmp_path: Path) -> None:
    """21 images of 20 pairs of neighbours: image k+1 is first met on side 1 of row k."""
    path = write(tmp_path / "a.parquet", [key_row(i) for i in range(20)])
    plan = planned(path, part_images=8)
    assert [len(part.images) for part in plan.parts] == [6, 5, 5, 5]
    located = [item for part in plan.parts for item in part.images]
    places = [(uid, place.row_group, place.row, place.side) for uid, place in located]
    later = [(f"image-{k + 1}", k // 5, k % 5, 1) for k in range(20)]
    assert places == [("image-0", 0, 0, 0), *later]
    assert all(place.file == str(path) for _, place in located)


@pytest.mark.parametrize(
    ("part_images", "images_of_parts"),
    [
        (1, [3, 3, 2, 3, 2, 3, 2, 3]),  # never more than two parts for one row group, however small the limit
        (3, [3, 3, 2, 3, 2, 3, 2, 3]),
        (4, [6, 5, 5, 5]),  # a little too much is not worth reading twice
        (10, [6, 10, 5]),
        (11, [11, 10]),
        (99, [21]),
    ],
)
def test_parts_are_cut_along_row_groups(tmp_path: Path, part_images: int, images_of_parts: list[int]) -> None:
    """Four row groups of five rows bring 6, 5, 5 and 5 new images."""
    plan = planned(write(tmp_path / "a.parquet", [key_row(i) for i in range(20)]), part_images=part_images)
    assert [len(part.images) for part in plan.parts] == images_of_parts
    check_row_groups(plan)


def random_bytes(count: int, size_bytes: int) -> list[dict[str, Any]]:
    """Pairs of unlike images, each `size_bytes` long, that no encoding makes smaller."""
    random = np.random.default_rng(0)
    sides = ({f"jpg_{side}": random.bytes(size_bytes) for side in (0, 1)} for _ in range(count))
    return [pair_row(i, image_0_uid=f"a{i}", image_1_uid=f"b{i}", **side) for i, side in enumerate(sides)]


def test_parts_are_balanced_by_bytes_that_the_metadata_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row groups of 40 images, two of 30 kB each, then three of 3 kB each; no image column is read."""
    rows = random_bytes(40, 30_000) + random_bytes(60, 3_000)
    for i, row in enumerate(rows):
        row |= {"image_0_uid": f"a{i}", "image_1_uid": f"b{i}"}
    path = write(tmp_path / "a.parquet", rows, row_group_size=20)
    read: set[str] = set()
    inner = pq.ParquetFile.read_row_groups

    def reading(self: pq.ParquetFile, groups: Any, columns: list[str]) -> pa.Table:
        read.update(columns)
        return inner(self, groups, columns=columns)

    monkeypatch.setattr(pq.ParquetFile, "read_row_groups", reading)
    plan = make_plan(open_source(load_manifest("pickapic_v2"), None, [str(path)]), 1000, 1_300_000)
    assert "caption" in read
    assert not read & {"jpg_0", "jpg_1"}
    assert [len(part.images) for part in plan.parts] == [40, 40, 120]
    assert plan.image_bytes == pytest.approx(80 * 30_000 + 120 * 3_000, rel=0.1)
    assert plan.counts()["image_bytes"] == plan.image_bytes
    check_row_groups(plan)


def test_a_row_group_of_too_many_bytes_is_halved(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", random_bytes(20, 3_000), row_group_size=20)
    for part_bytes, images_of_parts in ((1_000, [20, 20]), (79_000, [20, 20]), (100_000, [40]), (10**9, [40])):
        plan = make_plan(open_source(load_manifest("pickapic_v2"), None, [str(path)]), 1000, part_bytes)
        assert [len(part.images) for part in plan.parts] == images_of_parts, part_bytes


def test_images_outside_the_files_are_only_counted(tmp_path: Path) -> None:
    """One row group of paths: reading it again costs nothing, and nothing tells how large the images are."""
    table = pa.table({"p": ["x"] * 9, "a": [f"{i}" for i in range(9)], "b": [f"{i + 1}" for i in range(9)]})
    plan = own_plan(tmp_path, table, LEAST)
    assert [len(part.images) for part in plan.parts] == [4, 4, 2]
    assert plan.image_bytes is None


def test_parts_can_be_chosen_and_travel(tmp_path: Path) -> None:
    plan = planned(write(tmp_path / "a.parquet", [key_row(i) for i in range(20)]), part_images=6)
    chosen = plan.parts.only([3, 1])
    assert [part.name for part in chosen] == ["part-00003", "part-00001"]
    sent = pickle.loads(pickle.dumps(chosen[1]))  # noqa: S301
    assert list(chosen[1:]) == [plan.parts[1]] == [sent]
    assert (len(chosen), chosen.image_count) == (2, 10)


def test_two_files_share_images(tmp_path: Path) -> None:
    one = write(tmp_path / "1.parquet", [key_row(i) for i in range(10)])
    two = write(tmp_path / "2.parquet", [key_row(i) for i in range(5, 15)])
    plan = planned(two, one)
    assert (plan.source_rows, plan.pairs.num_rows, plan.image_count) == (20, 15, 16)
    assert Counter(reasons(plan)) == {"duplicate_pair": 5}
    check_parts(plan)


def test_no_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", [])
    with pytest.raises(SourceError) as caught:
        planned(path)
    assert str(caught.value) == f"no rows in {path}; correct --source or the manifest's files"


def test_empty_file_beside_a_full_one(tmp_path: Path) -> None:
    empty, full = write(tmp_path / "0.parquet", []), write(tmp_path / "1.parquet", [key_row(0)])
    assert planned(empty, full).pairs.num_rows == 1


def test_no_row_stands(tmp_path: Path) -> None:
    rows = [key_row(0, has_label=False), key_row(1, caption=""), key_row(2, has_label=False)]
    with pytest.raises(SourceError) as caught:
        planned(write(tmp_path / "a.parquet", rows))
    assert str(caught.value) == (
        "none of the 3 rows can be used: 1 empty_prompt, 2 unlabelled; correct the manifest or --source"
    )


def own_plan(folder: Path, table: pa.Table, columns: dict[str, str]) -> Plan:
    path = folder / "mine.toml"
    pq.write_table(table, folder / "mine.parquet")
    path.write_text(tomli_w.dumps({"splits": {"train": {"files": ["mine.parquet"]}}, "columns": columns}))
    return make_plan(open_source(load_manifest(str(path)), None), 4)


LEAST = {"prompt": "p", "image_0_path": "a", "image_1_path": "b"}


@pytest.mark.parametrize("dtype", [pa.int8(), pa.int64(), pa.float32(), pa.uint8()])
def test_whole_number_labels(tmp_path: Path, dtype: pa.DataType) -> None:
    table = pa.table({"p": ["x", "x"], "a": ["1", "1"], "b": ["2", "3"], "l": pa.array([1, 0], dtype)})
    assert own_plan(tmp_path, table, LEAST | {"label_0": "l"}).pairs["preference"].to_pylist() == [0, 1]


def test_label_type_does_not_change_the_pair_id(tmp_path: Path) -> None:
    found = []
    for dtype in (pa.int32(), pa.float64()):
        table = pa.table({"p": ["x"], "a": ["1"], "b": ["2"], "l": pa.array([1], dtype)})
        found.append(own_plan(tmp_path, table, LEAST | {"label_0": "l"}).pairs["pair_id"].to_pylist())
    assert found[0] == found[1]


def test_unjudged_pairs_stand_without_a_preference(tmp_path: Path) -> None:
    table = pa.table({"p": ["x", ""], "a": ["1", "1"], "b": ["2", "3"]})
    plan = own_plan(tmp_path, table, LEAST)
    assert plan.pairs["preference"].to_pylist() == [None]
    assert reasons(plan) == ["empty_prompt"]


def test_labels_of_nulls_only(tmp_path: Path) -> None:
    table = pa.table({"p": ["x"], "a": ["1"], "b": ["2"], "l": pa.nulls(1)})
    with pytest.raises(SourceError, match="none of the 1 rows can be used: 1 bad_label"):
        own_plan(tmp_path, table, LEAST | {"label_0": "l"})


def test_stable_ids_are_written_down() -> None:
    """Ids go into shards and papers: the same on every machine, in every version; `b2sum -l 64` gives them."""
    assert stable_id("a red circle") == "8cbf502735c9b035"
    assert stable_id("a", None, 1.0) == "c6583b6c2f7c7440"
    assert stable_id("ab", "c") != stable_id("a", "bc")


def test_ids_of_rows_are_those_of_stable_id(tmp_path: Path) -> None:
    """Whatever the columns' types and contents: labels as `str` writes them, nothing as nothing."""
    rows = [
        key_row(0, label_0=label, label_1=None, user_id=user, caption=prompt)
        for label in (0.0, 0.5, 1.0, 0.1, 1e-7, 1e22, 123456789.125, math.nan, -math.inf, None)
        for user, prompt in ((None, "赤い\x1f丸"), (7, None))
    ]
    plan = planned(write(tmp_path / "a.parquet", [*rows, key_row(1)]))
    expected = [
        stable_id(row["caption"], row["image_0_uid"], row["image_1_uid"], row["label_0"], row["user_id"], 0)
        for row in rows
    ]
    assert plan.dropped["pair_id"].to_pylist() == expected
    assert len(set(expected)) == len(expected)


FAULTS: list[dict[str, Any]] = [
    {},
    {},
    {"label_0": None},
    {"label_0": 0.7},
    {"label_0": 0.5, "label_1": 0.5},
    {"has_label": False},
    {"has_label": None},
    {"image_0_uid": CONTROL_UID},
    {"image_1_uid": None},
    {"image_0_uid": "image-1", "image_1_uid": "image-1"},
    {"caption": " "},
    {"caption": "\x00🔴"},
]
FAULTY = st.builds(lambda index, fault: key_row(index, **fault), st.integers(0, 12), st.sampled_from(FAULTS))
ROWS = st.lists(FAULTY).map(lambda rows: [*rows, key_row(20)])  # one row stands, whatever else


@settings(max_examples=40, deadline=None)
@given(rows=ROWS, part_images=st.integers(1, 9), group=st.integers(1, 7))
def test_counts_add_up_whatever_the_faults(rows: list[dict[str, Any]], part_images: int, group: int) -> None:
    with TemporaryDirectory() as folder:
        plan = planned(write(Path(folder) / "a.parquet", rows, group), part_images=part_images)
    assert plan.source_rows == len(rows)
    check_sums(plan)
    check_parts(plan)
    check_row_groups(plan)


def content(plan: Plan) -> tuple[Any, ...]:
    """Everything of a plan but where things lie."""
    places = {"source_file", "source_row_group", "source_row"}
    pairs = [tuple((k, v) for k, v in row.items() if k not in places) for row in plan.pairs.to_pylist()]
    prompts_of = {uid: sorted(ids) for part in plan.parts for uid, ids in part.prompt_ids.items()}
    dropped = Counter(zip(plan.dropped["pair_id"].to_pylist(), reasons(plan), strict=True))
    return sorted(pairs, key=str), plan.prompts, prompts_of, dropped


@settings(max_examples=40, deadline=None)
@given(data=st.data(), rows=ROWS)
def test_layout_of_the_source_makes_no_difference(data: st.DataObject, rows: list[dict[str, Any]]) -> None:
    """Shuffled rows, cut into two files of other names and other row groups: same ids, pairs, prompts, counts."""
    shuffled = data.draw(st.permutations(rows))
    cut = data.draw(st.integers(0, len(rows) - 1))
    names = data.draw(st.permutations(["a", "b"]))
    with TemporaryDirectory() as folder:
        whole = planned(write(Path(folder) / "whole.parquet", rows))
        halves = [
            write(Path(folder) / f"{name}.parquet", half, data.draw(st.integers(1, 7)))
            for name, half in zip(names, (shuffled[:cut], shuffled[cut:]), strict=True)
        ]
        assert content(planned(*halves)) == content(whole)
