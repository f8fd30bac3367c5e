"""Descriptions of data sets: the bundled ones state the field's facts; a wrong one says where and what is meant."""

import re
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from curate.errors import ManifestError, UsageError
from curate.sources.manifest import BUNDLED, load_manifest
from schemas.manifests import (
    CANDIDATE_KEYS,
    COLUMN_KEYS,
    LABEL_KEYS,
    MANIFEST_KEYS,
    QUERY_KEYS,
    RULE_KEYS,
    SPLIT_KEYS,
)
from tests.curate.builders import CONTROL_UID, PICKAPIC

NAMES = sorted(path.stem for path in BUNDLED.glob("*.toml"))
GOOD: dict[str, Any] = {
    "splits": {"train": {"files": ["*.parquet"]}},
    "columns": {"prompt": "p", "image_0_bytes": "a", "image_1_bytes": "b", "label_0": "l"},
}
ROWS = {  # https://arxiv.org/abs/2305.01569 and the data set cards
    "pickapic_v1": {"train": 583_747, "validation": 17_439, "test": 14_073},
    "pickapic_v2": {"train": 959_040, "validation": 20_596, "test": 20_716},
}


def written(folder: Path, **changes: Any) -> str:
    """GOOD with top-level keys replaced, as a file."""
    path = folder / "mine.toml"
    path.write_text(tomli_w.dumps(GOOD | changes))
    return str(path)


def error_of(folder: Path, **changes: Any) -> str:
    """The message that the changed manifest is refused with, without the folder."""
    with pytest.raises(ManifestError) as caught:
        load_manifest(written(folder, **changes))
    assert caught.value.exit_code == 1
    return str(caught.value).replace(f"{folder}/", "")


def test_bundled_names() -> None:
    assert [
        *("demo", "folders", "genai_bench", "generic", "hpdv2", "hpdv2_test", "hpdv3", "hpdv3pp", "imagerewarddb"),
        *("open_image_preferences", "pickapic_v1", "pickapic_v2", "pickapic_v2_tars", "rapidata_700k", "rapidata_t2i"),
    ] == NAMES


def test_a_byte_order_mark_is_no_part_of_the_toml(tmp_path: Path) -> None:
    path = Path(written(tmp_path))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load_manifest(str(path)).columns == GOOD["columns"]


@pytest.mark.parametrize("name", NAMES)
def test_bundled_manifest_describes_itself(name: str) -> None:
    manifest = load_manifest(name)
    assert manifest.name == name or name == "generic"
    assert manifest.description
    assert manifest.query or manifest.always_0 or {"label_0", "votes_0"} & set(manifest.columns)
    assert manifest.default_split in ("train", "test")
    assert "Untested" in manifest.description or name in ("demo", "generic", "folders", "pickapic_v1", "pickapic_v2")
    assert manifest.models == ("demo" if name == "demo" else "published")


@pytest.mark.parametrize("name", ["demo", "pickapic_v1", "pickapic_v2"])
def test_pickapic_columns_and_rules(name: str) -> None:
    manifest = load_manifest(name)
    assert set(manifest.columns.values()) == set(PICKAPIC.names)
    assert manifest.columns["prompt"] == "caption"
    assert manifest.columns["labelled"] == "has_label"
    assert manifest.control_image_uids == (CONTROL_UID,)


@pytest.mark.parametrize("name", ROWS)
def test_pickapic_row_counts(name: str) -> None:
    rows = {split: value.rows for split, value in load_manifest(name).splits.items()}
    assert rows == ROWS[name] | {"validation_unique": 500, "test_unique": 500}


@pytest.mark.parametrize("name", ROWS)
def test_each_split_has_files_of_its_own(name: str) -> None:
    """`validation-*` must not match the files of `validation_unique`."""
    patterns = [pattern for split in load_manifest(name).splits.values() for pattern in split.files]
    assert len(set(patterns)) == len(patterns)
    assert all(re.fullmatch(r"hf://datasets/.+/data/\w+-\*\.parquet", pattern) for pattern in patterns)


def test_template_explains_every_key() -> None:
    """generic.toml has a line for each key, set or commented out, with a comment beside or above it."""
    lines = (BUNDLED / "generic.toml").read_text().splitlines()
    assert "".join(lines).count("#") > 10
    assert any(line.startswith("[splits.") for line in lines)
    more = ("name", "description", "models", "default_split", "images", "keep", "dimension")
    for key in (*COLUMN_KEYS, *RULE_KEYS, *SPLIT_KEYS, *QUERY_KEYS, *LABEL_KEYS, *CANDIDATE_KEYS, *more):
        assert any(re.match(rf"(# )?{key} = ", line) for line in lines), key


def test_template_with_every_commented_column_still_loads(tmp_path: Path) -> None:
    text = (BUNDLED / "generic.toml").read_text()
    text = re.sub(
        r"^# ((labelled|annotator_id|judgement_id|image_\d_model|category|rows|votes_\d) = )",
        r"\1",
        text,
        flags=re.MULTILINE,
    )
    path = tmp_path / "mine.toml"
    path.write_text(text)
    assert set(COLUMN_KEYS) - set(load_manifest(str(path)).columns) == {
        *("image_0_path", "image_1_path"),  # of which a set has bytes or paths
        *("votes", "share_0", "dimension"),
    }


def test_least_manifest(tmp_path: Path) -> None:
    manifest = load_manifest(written(tmp_path))
    assert (manifest.name, manifest.default_split, manifest.models) == ("mine", "train", None)
    assert manifest.control_image_uids == ()
    assert manifest.split(None)[1].files == ("*.parquet",)
    assert manifest.settings() == {"name": "mine", "columns": GOOD["columns"], "control_image_uids": []}


def test_unjudged_manifest(tmp_path: Path) -> None:
    columns = {key: value for key, value in GOOD["columns"].items() if key != "label_0"}
    assert "label_0" not in load_manifest(written(tmp_path, columns=columns)).columns


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colums": {}}, "mine.toml: unknown key 'colums'; did you mean 'columns'?"),
        ({"zzz": 1}, f"mine.toml: unknown key 'zzz'; known: {', '.join(sorted(MANIFEST_KEYS))}"),
        (
            {"columns": GOOD["columns"] | {"lable_0": "x"}},
            "mine.toml: unknown key 'columns.lable_0'; did you mean 'label_0'?",
        ),
        (
            {"rules": {"control_images_uids": []}},
            "mine.toml: unknown key 'rules.control_images_uids'; did you mean 'control_image_uids'?",
        ),
        (
            {"splits": {"train": {"file": ["x"]}}},
            "mine.toml: unknown key 'splits.train.file'; did you mean 'files'?",
        ),
        ({"splits": {}}, "mine.toml: no [splits.NAME] table; add one with files = [...]"),
        ({"splits": 3}, "mine.toml: 'splits' must be a table, got int"),
        ({"splits": {"train": ["x"]}}, "mine.toml: 'splits.train' must be a table with files = [...]"),
        (
            {"splits": {"train": {"files": "x.parquet"}}},
            "mine.toml: 'splits.train.files' must be a list of paths, globs or URLs",
        ),
        (
            {"splits": {"train": {"files": []}}},
            "mine.toml: 'splits.train.files' must be a list of paths, globs or URLs",
        ),
        (
            {"splits": {"train": {"files": ["x"], "rows": True}}},
            "mine.toml: 'splits.train.rows' must be a whole number, got True",
        ),
        (
            {"default_split": "trian"},
            "mine.toml: default_split 'trian' is not a split; did you mean 'train'?",
        ),
        ({"default_split": ["train"]}, "mine.toml: 'default_split' must be text, got ['train']"),
        ({"models": 3}, "mine.toml: 'models' must be text, got 3"),
        ({"name": 7}, "mine.toml: 'name' must be text, got 7"),
        ({"columns": {}}, "mine.toml: 'columns.prompt' is missing; name the column that holds it"),
        ({"columns": "caption"}, "mine.toml: 'columns' must be a table, got str"),
        (
            {"columns": {"prompt": "p"}},
            "mine.toml: map exactly one of 'columns.image_0_bytes' and 'columns.image_0_path', got neither",
        ),
        (
            {"columns": GOOD["columns"] | {"image_1_path": "u"}},
            "mine.toml: map exactly one of 'columns.image_1_bytes' and 'columns.image_1_path', "
            "got image_1_bytes and image_1_path",
        ),
        ({"columns": GOOD["columns"] | {"label_0": 4}}, "mine.toml: 'columns.label_0' must name a column, got 4"),
        (
            {"columns": {"prompt": "p", "image_0_bytes": "a", "image_1_bytes": "b", "label_1": "l"}},
            "mine.toml: 'columns.label_1' without 'columns.label_0'; map label_0 too",
        ),
        (
            {"rules": {"control_image_uids": "abc"}},
            "mine.toml: 'rules.control_image_uids' must be a list of image uids, got 'abc'",
        ),
        (
            {"rules": {"control_image_uids": [3]}},
            "mine.toml: 'rules.control_image_uids' must be a list of image uids, got [3]",
        ),
    ],
)
def test_wrong_manifest_says_where_and_what(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    assert error_of(tmp_path, **changes) == message


def test_no_columns_table(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(tomli_w.dumps({"splits": GOOD["splits"]}))
    with pytest.raises(ManifestError, match=r"mine\.toml: 'columns\.prompt' is missing; name the column"):
        load_manifest(str(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name = ", "not valid TOML: Invalid value (at end of document)"),
        (b"name = '\xff'", "not valid TOML: 'utf-8' codec can't decode byte 0xff in position 8: invalid start byte"),
    ],
)
def test_malformed_toml(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    with pytest.raises(ManifestError) as caught:
        load_manifest(str(path))
    assert str(caught.value) == f"{path}: {message}"


def test_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "nowhere.toml"
    with pytest.raises(ManifestError) as caught:
        load_manifest(str(path))
    assert str(caught.value) == f"{path}: cannot be read (No such file or directory); give a path to a TOML file"


def test_unknown_name() -> None:
    with pytest.raises(ManifestError) as caught:
        load_manifest("pickapic_v3")
    assert str(caught.value) == (
        "no bundled manifest is named 'pickapic_v3'; did you mean 'pickapic_v2'?; a file's name ends in .toml"
    )


def test_unknown_split() -> None:
    with pytest.raises(UsageError) as caught:
        load_manifest("pickapic_v2").split("tain")
    assert str(caught.value) == "manifest 'pickapic_v2' has no split 'tain'; did you mean 'train'?"
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("sampled", "message"),
    [
        ("[sampled]\nsed = 1\n", "unknown key 'sampled.sed'; did you mean 'seed'?"),
        ("[sampled]\nmodels = [1]\n", "'sampled.models' must be tables with a name, got [1]"),
        ("[[sampled.models]]\nname = 'a'\nchosen = []\n", "unknown key 'sampled.models.chosen'; did you mean"),
    ],
)
def test_how_pictures_were_drawn_is_checked_and_kept(tmp_path: Path, sampled: str, message: str) -> None:
    path = tmp_path / "mine.toml"
    text = (BUNDLED / "generic.toml").read_text()
    path.write_text(f"{text}\n{sampled}")
    with pytest.raises(ManifestError) as caught:
        load_manifest(str(path))
    assert message in str(caught.value)
    path.write_text(f"{text}\n[sampled]\nseed = 3\n[[sampled.models]]\nname = 'a'\nchosen_by = ['clip']\n")
    kept = load_manifest(str(path)).settings()["sampled"]
    assert kept == {"seed": 3, "models": [{"name": "a", "chosen_by": ["clip"]}]}
