"""Any layout as one table of pairs: queries, columns, candidates, roots, and what is refused."""

import codecs
import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.errors import CurateError
from curate.sources.layouts.members import read_members
from curate.sources.layouts.preparation import Preparation, columns_query
from curate.sources.layouts.prepare import write_rows
from curate.sources.manifest import Candidates
from tests.curate.sources.layouts.test_members import write_tar, write_zip

TWO = "select prompt, a as image_0_path, b as image_1_path from source"
LABELLED = "select prompt, a as image_0_path, b as image_1_path, label as label_0 from source"
ROWS = [{"prompt": "p", "a": "1.png", "b": "2.png"}, {"prompt": "q", "a": "3.png", "b": "4.png"}]


def prepared(tmp_path: Path, file: Path | list[Path], sql: str = TWO, **options: Any) -> list[dict[str, Any]]:
    files = tuple(map(str, file if isinstance(file, list) else [file]))
    write_rows(Preparation("m.toml", files, sql, **options), tmp_path / "rows.parquet")
    return pq.read_table(tmp_path / "rows.parquet").to_pylist()


def write_json(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps(rows))
    return path


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def write_table(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


WRITERS = {
    "x.json": write_json,
    "x.jsonl": write_lines,
    "x.ndjson": write_lines,
    "x.csv": write_table,
    "x.tsv": write_table,
    "x.parquet": write_parquet,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_table_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    file = WRITERS[name](tmp_path / name, ROWS)
    folder = tmp_path.as_posix()
    assert prepared(tmp_path, file) == [
        {
            "prompt": row["prompt"],
            "image_0_uid": row["a"],
            "image_0_path": f"{folder}/{row['a']}",
            "image_1_uid": row["b"],
            "image_1_path": f"{folder}/{row['b']}",
        }
        for row in ROWS
    ]


@pytest.mark.parametrize("name", ["x.json", "x.jsonl", "x.csv"])
def test_a_byte_order_mark_is_no_part_of_the_table(tmp_path: Path, name: str) -> None:
    """duckdb#16568, #1570: what Windows' programs write."""
    file = WRITERS[name](tmp_path / name, ROWS)
    plain = prepared(tmp_path, file)
    file.write_bytes(codecs.BOM_UTF8 + file.read_bytes())
    assert prepared(tmp_path, file) == plain


def test_csv_is_read_as_its_standard_says_whatever_the_first_rows_are_like(tmp_path: Path) -> None:
    """duckdb#21000, #11838, #17744, #11403: a quote after 20,480 rows without one, #, and lines within a prompt."""
    rows = [{"prompt": "p", "a": "1.png", "b": "2.png"}] * 21_000
    rows += [{"prompt": text, "a": "1.png", "b": "2.png"} for text in ("a fox, red", "two\nlines", '"said"', "#tag")]
    found = prepared(tmp_path, write_table(tmp_path / "x.csv", rows))
    assert len(found) == 21_004
    assert [row["prompt"] for row in found[-4:]] == ["a fox, red", "two\nlines", '"said"', "#tag"]


def test_compressed_text_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(write_lines(tmp_path / "x.jsonl", ROWS).read_bytes()))
    assert len(prepared(tmp_path, tmp_path / "x.jsonl.gz")) == 2


def test_columns_stand_for_a_query(tmp_path: Path) -> None:
    sql = columns_query({"prompt": "prompt", "image_0_path": "a", "image_1_path": "b"})
    file = write_json(tmp_path / "x.json", ROWS)
    assert prepared(tmp_path, file, sql) == prepared(tmp_path, file)


def test_lists_structs_and_windows_are_at_hand(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "images": {"one": "1.png", "two": "2.png"}, "votes": [3, 1]}]
    sql = "select prompt, images.one as image_0_path, images.two as image_1_path, votes[1] as votes_0"
    found = prepared(tmp_path, write_json(tmp_path / "x.json", rows), f"{sql} from source")
    assert (found[0]["votes_0"], found[0]["image_1_uid"]) == (3, "2.png")


def test_the_rows_do_not_depend_on_how_the_files_are_cut(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{i}", "a": f"{i}.png", "b": f"{i}b.png"} for i in range(50)]
    whole = prepared(tmp_path, write_lines(tmp_path / "x.jsonl", rows))
    halves = [write_lines(tmp_path / "a.jsonl", rows[:20]), write_lines(tmp_path / "b.jsonl", rows[20:])]
    assert prepared(tmp_path, halves) == whole


@pytest.mark.parametrize(("write", "name"), [(write_tar, "i.tar"), (write_zip, "i.zip")])
def test_pictures_in_an_archive(tmp_path: Path, write: Any, name: str) -> None:
    archive = write(tmp_path / name, {"1.png": b"one", "./2.png": b"two", "3.png": b"three"})
    found = prepared(tmp_path, write_json(tmp_path / "x.json", ROWS), images=(str(archive),))
    assert found[1]["image_1_path"] is None  # 4.png is not in it
    addresses = [found[0]["image_0_path"], found[0]["image_1_path"], found[1]["image_0_path"]]
    assert dict(read_members(addresses)) == dict(zip(addresses, (b"one", b"two", b"three"), strict=True))
    assert [row["image_0_uid"] for row in found] == ["1.png", "3.png"]


def test_pictures_below_a_root(tmp_path: Path) -> None:
    found = prepared(tmp_path, write_json(tmp_path / "x.json", ROWS), images=("/data/pictures/",))
    assert found[0]["image_0_path"] == "/data/pictures/1.png"
    urls = [{"prompt": "p", "a": "https://example.org/1.png", "b": "/abs/2.png"}]
    found = prepared(tmp_path, write_json(tmp_path / "x.json", urls), images=("/data/pictures/",))
    assert (found[0]["image_0_path"], found[0]["image_1_path"]) == ("https://example.org/1.png", "/abs/2.png")


def test_a_picture_in_a_column_is_its_address_and_its_uid_its_hash(tmp_path: Path) -> None:
    rows = [{"p": "x", "chosen": b"A", "rejected": b"B"}, {"p": "y", "chosen": b"B", "rejected": b"C"}]
    sql = "select p as prompt, chosen as image_0_path, rejected as image_1_path from source"
    found = prepared(tmp_path, write_parquet(tmp_path / "x.parquet", rows), sql)
    assert found[0]["image_1_uid"] == found[1]["image_0_uid"] != found[0]["image_0_uid"]
    assert [data for _, data in read_members([row["image_0_path"] for row in found])] == [b"A", b"B"]


CANDIDATES: list[dict[str, Any]] = [
    *({"prompt": "p", "image_path": str(place), "rank": rank} for place, rank in enumerate((2, 1, 1, 9))),
    *({"prompt": "q", "image_path": f"q{place}", "rank": rank} for place, rank in enumerate((5, None, 3))),
    {"prompt": "one", "image_path": "o", "rank": 1},
    *({"prompt": "tied", "image_path": f"t{place}", "rank": 1} for place in range(2)),
]
RULES = {  # by hand: picture 1 and 2 are best, then 0, then 3; q2 beats q0
    "all": {("1", "0"), ("2", "0"), ("1", "3"), ("2", "3"), ("0", "3"), ("q2", "q0")},
    "adjacent": {("1", "0"), ("2", "0"), ("0", "3"), ("q2", "q0")},
    "best-rest": {("1", "0"), ("2", "0"), ("1", "3"), ("2", "3"), ("q2", "q0")},
    "best-worst": {("1", "3"), ("q2", "q0")},
}


def candidate_pairs(tmp_path: Path, rule: str, sql: str, rows: list[dict[str, Any]], **options: Any) -> set[Any]:
    file = write_lines(tmp_path / "c.jsonl", rows)
    found = prepared(tmp_path, file, sql, candidates=Candidates(rule, **options))
    return {(row["image_0_uid"], row["image_1_uid"]) for row in found}


@pytest.mark.parametrize("rule", RULES)
def test_pairs_of_candidates_by_hand(tmp_path: Path, rule: str) -> None:
    assert candidate_pairs(tmp_path, rule, "from source", CANDIDATES) == RULES[rule]


@pytest.mark.parametrize("rule", RULES)
def test_ratings_are_ranks_the_other_way_round(tmp_path: Path, rule: str) -> None:
    sql = "select prompt, image_path, -rank as rating from source"
    assert candidate_pairs(tmp_path, rule, sql, CANDIDATES) == RULES[rule]


def test_lists_of_candidates(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "image_path": ["0", "1", "2", "3"], "rank": [2, 1, 1, 9]}]
    found = candidate_pairs(tmp_path, "all", "from source", rows)
    assert found == {pair for pair in RULES["all"] if "q2" not in pair}


def test_at_most_so_many_of_a_prompt_the_widest_first(tmp_path: Path) -> None:
    found = candidate_pairs(tmp_path, "all", "from source", CANDIDATES, per_prompt=2)
    assert found == {("1", "3"), ("2", "3"), ("q2", "q0")}


def test_what_makes_no_pair_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_lines(tmp_path / "c.jsonl", CANDIDATES)
    preparation = Preparation("m.toml", (str(file),), "from source", candidates=Candidates("best-worst"))
    assert write_rows(preparation, tmp_path / "rows.parquet") == {
        "pictures_in_no_pair": 2,  # 0, and one of the two best
        "pictures_without_rank": 1,
        "prompts_all_tied": 1,
        "prompts_of_one_picture": 1,
    }
    assert "candidates that make no pair: 2 pictures in no pair" in capsys.readouterr().err


REFUSED = {
    "a column without meaning": ("select *, 1 as lable_0 from source", "column 'a' that is not known"),
    "a misspelt column": (f"select *, 1 as lable_0 from ({TWO})", "did you mean 'label_0'?"),
    "no picture": ("select prompt, a as image_0_path from source", "no column 'image_1_path'"),
    "two statements": (f"{TWO}; {TWO}", "one SQL statement is needed, got 2"),
    "a statement that writes": ("create table x as from source", "only queries are allowed here"),
    "another file": ("select * from read_csv('/etc/passwd')", "Cannot access file"),
    "a setting": ("set threads = 1", "only queries are allowed here"),
    "no SQL": ("selec 1", "syntax error"),
    "a column that is not there": ("select nothing as prompt from source", "nothing"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_query_that_cannot_be_read_is_refused_with_the_manifests_name(tmp_path: Path, case: str) -> None:
    sql, words = REFUSED[case]
    with pytest.raises(CurateError) as raised:
        prepared(tmp_path, write_json(tmp_path / "x.json", ROWS), sql)
    assert str(raised.value).startswith("m.toml: ")
    assert words in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_a_line_cut_in_half_ends_in_a_sentence_that_names_the_file(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "x.jsonl", ROWS)
    file.write_text(file.read_text()[:-9])
    with pytest.raises(CurateError, match=r"x\.jsonl"):
        prepared(tmp_path, file)


def test_relative_paths_of_files_in_two_folders_need_a_root(tmp_path: Path) -> None:
    """Below each file's folder, or the first one's? They may be different pictures."""
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
    files = [write_lines(tmp_path / place / "x.jsonl", ROWS) for place in ("a", "b")]
    with pytest.raises(
        CurateError, match=r"m.toml: the files lie in 2 folders and hold relative paths, such as '1.png'"
    ):
        prepared(tmp_path, files)
    assert len(prepared(tmp_path, files, images=("/data",))) == 4
    urls: list[dict[str, Any]] = [{"prompt": "p", "a": "https://example.org/1.png", "b": "/abs/2.png"}]
    assert len(prepared(tmp_path, [write_lines(file, urls) for file in files])) == 2


def test_a_column_named_filename_is_the_sets_own(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "filename": "1.png", "b": "2.png"}]
    file = write_lines(tmp_path / "x.jsonl", rows)
    sql = "select source_filename as prompt, filename as image_0_path, b as image_1_path from source"
    found = prepared(tmp_path, file, sql)
    assert (found[0]["prompt"], found[0]["image_0_uid"]) == (str(file), "1.png")
    cells = write_parquet(tmp_path / "x.parquet", [{"prompt": "p", "filename": b"A", "b": b"B"}])
    found = prepared(tmp_path, cells, "select prompt, filename as image_0_path, b as image_1_path from source")
    assert [data for _, data in read_members([found[0]["image_0_path"]])] == [b"A"]


def test_a_mark_that_is_a_number_here_and_text_there_is_text(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [ROWS[0] | {"label": 1}, ROWS[1] | {"label": "tie"}]
    found = prepared(tmp_path, write_lines(tmp_path / "x.jsonl", rows), LABELLED)
    assert [row["label_0"] for row in found] == ["1", "tie"]


LISTS = {"of bytes": [b"A", b"B"], "of images": [{"bytes": b"A", "path": None}, {"bytes": b"B", "path": None}]}


@pytest.mark.parametrize("case", LISTS)
def test_lists_of_pictures_in_a_column_are_refused(tmp_path: Path, case: str) -> None:
    file = write_parquet(tmp_path / "x.parquet", [{"prompt": "p", "images": LISTS[case]}])
    sql = "select prompt, images[1] as image_0_path, images[2] as image_1_path from source"
    with pytest.raises(CurateError, match=r"m.toml: column 'image_0_path' holds .*, it needs paths"):
        prepared(tmp_path, file, sql)


def test_pictures_are_known_by_the_same_names_wherever_the_set_lies(tmp_path: Path) -> None:
    sql = 'select txt as prompt, "a.jpg" as image_0_path, "b.jpg" as image_1_path from source'
    known = []
    for place, before in (("here", {}), ("there", {"x.txt": b"more"})):
        (tmp_path / place).mkdir()
        tar = write_tar(tmp_path / place / "0.tar", before | {"d/1.a.jpg": b"A", "d/1.b.jpg": b"B", "d/1.txt": b"p"})
        known.append(prepared(tmp_path, tar, sql)[-1])
    assert known[0]["image_0_path"] != known[1]["image_0_path"]
    assert {row["image_0_uid"] for row in known} == {"d/1.a.jpg"}


def test_tars_may_be_cut_anew_where_each_key_is_its_own(tmp_path: Path) -> None:
    sql = 'select txt as prompt, "a.jpg" as image_0_path, "b.jpg" as image_1_path from source'
    samples = [{f"{key}.a.jpg": b"A", f"{key}.b.jpg": b"B", f"{key}.txt": b"p"} for key in (1, 2)]
    whole = write_tar(tmp_path / "whole.tar", samples[0] | samples[1])
    cut = [write_tar(tmp_path / f"{place}.tar", sample) for place, sample in enumerate(samples)]
    known = [[row["image_0_uid"] for row in prepared(tmp_path, tars, sql)] for tars in ([whole], cut)]
    assert known == [["1.a.jpg", "2.a.jpg"]] * 2
    again = [write_tar(tmp_path / f"again-{place}.tar", samples[0]) for place in (0, 1)]  # two pictures of one name
    assert [row["image_0_uid"] for row in prepared(tmp_path, again, sql)] == [f"again-{i}.tar::1.a.jpg" for i in (0, 1)]


def test_a_sets_jpg_and_JPG_are_one_column(tmp_path: Path) -> None:  # noqa: N802
    tar = write_tar(tmp_path / "x.tar", {"1.A.JPG": b"A", "1.txt": b"p", "2.a.jpg": b"B", "2.txt": b"q"})
    found = prepared(
        tmp_path, tar, 'select txt as prompt, "a.jpg" as image_0_path, "a.jpg" as image_1_path from source'
    )
    assert [data for _, data in read_members([row["image_0_path"] for row in found])] == [b"A", b"B"]


def test_kinds_are_not_mixed_and_unknown_endings_are_named(tmp_path: Path) -> None:
    files = [write_json(tmp_path / "x.json", ROWS), write_table(tmp_path / "x.csv", ROWS)]
    with pytest.raises(CurateError, match=r"several kinds, \.csv, \.json"):
        prepared(tmp_path, files)
    with pytest.raises(CurateError, match=r"x\.xlsx: files are read by the end of their name"):
        prepared(tmp_path, tmp_path / "x.xlsx")


def test_a_set_of_tars_with_a_pair_in_each_sample(tmp_path: Path) -> None:
    samples: dict[str, bytes] = {}
    for key in ("000", "001"):
        samples |= {f"{key}.prompt.txt": f"prompt {key}".encode(), f"{key}.label_0.txt": b"1.0"}
        samples |= {f"{key}.jpg_0.jpg": f"left {key}".encode(), f"{key}.jpg_1.jpg": f"right {key}".encode()}
    tar = write_tar(tmp_path / "x.tar", samples)
    columns = {
        "prompt": "prompt.txt",
        "image_0_path": "jpg_0.jpg",
        "image_1_path": "jpg_1.jpg",
        "label_0": "label_0.txt",
    }
    found = prepared(tmp_path, tar, columns_query(columns))
    assert [(row["prompt"], row["label_0"]) for row in found] == [("prompt 000", "1.0"), ("prompt 001", "1.0")]
    assert [data for _, data in read_members([row["image_1_path"] for row in found])] == [b"right 000", b"right 001"]


def test_two_folders_of_equal_names(tmp_path: Path) -> None:
    for side in ("win", "lose"):
        (tmp_path / "set" / side).mkdir(parents=True)
        (tmp_path / "set" / side / "a.png").write_bytes(side.encode())
    (tmp_path / "set" / "win" / "b.png").write_bytes(b"alone")
    (tmp_path / "set" / "win" / "a.txt").write_text("a prompt\n")
    columns = {"prompt": "caption", "image_0_path": "preferred", "image_1_path": "rejected"}
    found = prepared(tmp_path, tmp_path / "set", columns_query(columns))
    assert [row["prompt"] for row in found] == ["a prompt", None]
    assert [row["image_1_path"] for row in found] == [str(tmp_path / "set" / "lose" / "a.png"), None]
