from pathlib import Path

import pytest

from tests.train import tiny
from train.errors import StorageError
from train.files import whole_file, whole_folder, write_json


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    with whole_file(path) as temporary:
        temporary.write_text("first")
        assert not path.exists()
    with pytest.raises(ZeroDivisionError), whole_file(path) as temporary:
        temporary.write_text(str(1 / 0))
    assert path.read_text() == "first"
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    with whole_folder(path) as temporary:
        (temporary / "old").write_text("1")
    with pytest.raises(ZeroDivisionError), whole_folder(path) as temporary:
        (temporary / "half").write_text(str(1 / 0))
    assert [entry.name for entry in path.iterdir()] == ["old"]
    with whole_folder(path) as temporary:
        (temporary / "new").write_text("3")
    assert [entry.name for entry in path.iterdir()] == ["new"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]


def test_what_the_disk_refuses_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "below.json"
    with pytest.raises(StorageError) as caught:
        write_json(path, {})
    assert str(caught.value) == f"{path} could not be written (File exists); make room or choose another folder."


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
def test_a_disk_too_full_for_a_tokenizer_is_one_sentence(tmp_path: Path) -> None:
    """Its library raises a bare Exception."""
    path = tmp_path / "model"
    with pytest.raises(StorageError) as caught, whole_folder(path):
        tiny.tokenizer().backend_tokenizer.save("/dev/full")
    reason = "No space left on device (os error 28)"
    assert str(caught.value) == f"{path} could not be written ({reason}); make room or choose another folder."
    assert list(tmp_path.iterdir()) == []
