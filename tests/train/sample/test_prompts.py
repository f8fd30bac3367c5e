import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.demo import ROOT
from train.errors import PromptError
from train.sample.prompts import Prompt, load_prompts, read_prompts

COPIES = ROOT.parent / "shared" / "data" / "prompts"
PLAIN = [Prompt("red box"), Prompt('blue "sky"')]
SORTED = [Prompt("red box", "x"), Prompt('blue "sky"', "y")]


def refused(name: object, copy: Path | None = None) -> str:
    with pytest.raises(PromptError) as caught:
        load_prompts(str(name), copy)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "prompts"),
    [
        ("a.txt", 'red box\n  blue "sky" \n', PLAIN),
        ("a.tsv", 'Category\tPrompt\nx\tred box\ny\tblue "sky"\n', SORTED),
        ("a.tsv", 'caption\nred box\nblue "sky"\n', PLAIN),
        ("a.json", json.dumps(["red box", 'blue "sky"']), PLAIN),
        ("a.json", json.dumps([{"prompt": "red box", "id": 1}, {"prompt": 'blue "sky"'}]), PLAIN),
        (
            "a.json",
            json.dumps([{"caption": one.text, "category": one.category} for one in SORTED]),
            SORTED,
        ),
    ],
)  # fmt: skip
def test_each_format_gives_the_prompts_in_order(tmp_path: Path, name: str, text: str, prompts: list[Prompt]) -> None:
    (tmp_path / name).write_text(text)
    assert load_prompts(str(tmp_path / name)).prompts == prompts


def test_a_parquet_is_read_without_its_pictures(tmp_path: Path) -> None:
    columns = {"Prompt": ["red box", 'blue "sky"'], "Category": ["x", "y"], "jpg_0": [b"1", b"2"]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    assert read_prompts(tmp_path / "a.parquet").prompts == SORTED


def test_repeats_and_blank_rows_are_counted_and_said_and_the_first_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("Prompt\tCategory\nred box\tx\n \tx\nblue sky\t\n red box\ty\n")
    found = read_prompts(path)
    assert found.prompts == [Prompt("red box", "x"), Prompt("blue sky")]
    assert (found.rows, found.blank, found.repeats) == (4, 1, 1)
    assert found.notes() == [f"{path}: 4 rows = 2 prompts + 1 repeats + 1 blank; each is drawn once."]


def test_files_without_prompts_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    assert refused(path) == f"{path} cannot be read: No such file or directory."
    needs = (
        "a .tsv or .parquet needs a column prompt or Prompt or caption, a .json a list of strings or of objects with"
        " such a key."
    )
    for text in ("{}", '[{"text": "x"}]', "[", "[3]", '[{"prompt": 3}]'):
        path.write_text(text)
        assert refused(path) == f"{path} holds no prompts: {needs}"
    table = tmp_path / "a.tsv"
    table.write_text("words\nred box\n")
    assert refused(table) == f"{table} holds no prompts: {needs}"
    empty = tmp_path / "a.txt"
    empty.write_text("\n \n")
    assert refused(empty) == f"{empty} holds no prompts."
    torn = tmp_path / "a.parquet"
    torn.write_bytes(b"PAR1")
    assert refused(torn).startswith(f"{torn} cannot be read: Parquet file size is 4 bytes")


def test_unknown_names_say_what_is_known(tmp_path: Path) -> None:
    known = "the known sets are hpsv2_benchmark, parti_prompts, pickapic_v2_test."
    assert refused("a.csv") == f"a.csv is neither .txt, .tsv, .json, .parquet nor a known set; {known}"
    assert refused("a.txt", tmp_path) == f"--prompts-file is the copy of a known set, and a.txt is none; {known}"
    assert refused("parti_prompts") == (
        "The set parti_prompts is not shipped; fetch "
        "https://raw.githubusercontent.com/google-research/parti/main/PartiPrompts.tsv and give it by --prompts-file."
    )


def test_a_copy_of_another_length_is_said_and_has_no_blocks(tmp_path: Path) -> None:
    path = tmp_path / "some.json"
    path.write_text(json.dumps([{"prompt": "a"}, {"prompt": "b"}]))
    found = load_prompts("hpsv2_benchmark", path)
    assert found.notes() == ["The set hpsv2_benchmark has 3,200 rows, this file 2."]
    assert {one.category for one in found.prompts} == {None}


@pytest.mark.parametrize(
    ("name", "file", "prompts", "categories", "notes"),
    [
        ("parti_prompts", "PartiPrompts.tsv", 1632, 12, []),
        (
            "hpsv2_benchmark", "hpsv2_3200.json", 3172, 4,
            ["hpsv2_benchmark: 3,200 rows = 3,172 prompts + 28 repeats; each is drawn once."],
        ),
        ("pickapic_v2_test", "pickapic_v2_papv2_487.json", 487, 1, []),
    ],
)  # fmt: skip
def test_the_known_sets(name: str, file: str, prompts: int, categories: int, notes: list[str]) -> None:
    if not (COPIES / file).exists():
        pytest.skip(f"no copy of {name} in {COPIES}")
    found = load_prompts(name, COPIES / file)
    assert len(found.prompts) == prompts
    assert len({one.category for one in found.prompts}) == categories
    assert found.notes() == notes


@pytest.mark.parametrize(
    "text", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]
)
def test_text_columns_of_every_writer_are_read(tmp_path: Path, text: pa.DataType) -> None:
    """pandas writes large strings, polars views, both a dictionary for a categorical column."""
    column = pa.array(["red box", 'blue "sky"']).cast(text)
    pq.write_table(pa.table({"prompt": column, "jpg_0": [b"1", b"2"]}), tmp_path / "a.parquet")
    assert read_prompts(tmp_path / "a.parquet").prompts == PLAIN


@pytest.mark.parametrize("name", ["a.txt", "a.tsv", "a.json"])
def test_a_mark_of_the_byte_order_is_no_part_of_a_prompt(tmp_path: Path, name: str) -> None:
    text = {"a.txt": "red box\r\n", "a.tsv": "prompt\tCategory\r\nred box\t\r\n", "a.json": '["red box"]'}[name]
    (tmp_path / name).write_bytes(text.encode("utf-8-sig"))
    assert read_prompts(tmp_path / name).prompts == [Prompt("red box")]


@pytest.mark.parametrize("prompt", ["red box\u2028blue sky", "red\x0bbox", "red\x85box", "x" * 200_000])
def test_a_prompt_ends_at_the_end_of_its_line_alone(tmp_path: Path, prompt: str) -> None:
    (tmp_path / "a.txt").write_text(f"{prompt}\ntwo\n")
    (tmp_path / "a.tsv").write_text(f"Prompt\tCategory\n{prompt}\tx\n\ntwo\n")
    assert read_prompts(tmp_path / "a.txt").prompts == [Prompt(prompt), Prompt("two")]
    assert read_prompts(tmp_path / "a.tsv").prompts == [Prompt(prompt, "x"), Prompt("two")]


def test_half_a_character_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('["red box \\ud83d"]')
    assert refused(path) == (
        f"{path} cannot be read: 'utf-8' codec can't encode character '\\ud83d' in position 8: surrogates not allowed."
    )
