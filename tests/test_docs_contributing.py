"""docs/contributing.md: the files and names of its walks are there."""

import re

import pytest

from tests.demo import ROOT
from tests.test_imports import HALVES

TEXT = (ROOT / "docs" / "contributing.md").read_text(encoding="utf-8")
PATHS = sorted(set(re.findall(r"`((?:curate|train|tests|schemas|data_manifests|benchmarks)/[\w/.]*)`", TEXT)))
NAMES = re.findall(r"`((?:curate|train)/[\w/]+\.py)`[:,] `(\w+)`", TEXT)


@pytest.mark.parametrize("path", PATHS)
def test_a_path_is_there(path: str) -> None:
    assert (ROOT / path).exists()


@pytest.mark.parametrize(("path", "name"), NAMES)
def test_a_name_stands_in_its_file(path: str, name: str) -> None:
    assert re.search(rf"^ *(def|class) {name}\b", (ROOT / path).read_text(), re.MULTILINE)


def test_the_walks_name_enough() -> None:
    assert len(PATHS) > 20
    assert len(NAMES) > 10


@pytest.mark.parametrize("half", HALVES)
def test_the_picture_shows_every_wing(half: str) -> None:
    for wing in HALVES[half]:
        assert re.search(rf"\b{wing}(/|\.py)", TEXT), wing
