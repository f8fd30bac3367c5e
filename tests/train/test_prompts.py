import json
from pathlib import Path

import pytest

from train.errors import PromptError
from train.prompts import read_prompts


def refused(path: Path) -> str:
    with pytest.raises(PromptError) as caught:
        read_prompts(path)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", 'red box\n\n  blue "sky" \nred box\n'),
        ("a.tsv", 'Category\tPrompt\nx\tred box\ny\tblue "sky"\n'),
        ("a.json", json.dumps(["red box", 'blue "sky"'])),
        ("a.json", json.dumps([{"prompt": "red box", "id": 1}, {"prompt": 'blue "sky"'}])),
    ],
)
def test_each_format_gives_the_prompts_in_order(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert read_prompts(tmp_path / name) == ["red box", 'blue "sky"']


def test_files_without_prompts_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    assert refused(path) == f"{path} cannot be read: No such file or directory."
    needs = "a .tsv needs a column Prompt, a .json a list of strings or of objects with a key prompt."
    for text in ("{}", '[{"text": "x"}]', "[", "[3]"):
        path.write_text(text)
        assert refused(path) == f"{path} holds no prompts: {needs}"
    table = tmp_path / "a.tsv"
    table.write_text("prompt\nred box\n")
    assert refused(table) == f"{table} holds no prompts: {needs}"
    empty = tmp_path / "a.txt"
    empty.write_text("\n \n")
    assert refused(empty) == f"{empty} holds no prompts."
    assert refused(tmp_path / "a.csv") == f"{tmp_path / 'a.csv'} is neither .txt, .tsv nor .json."
