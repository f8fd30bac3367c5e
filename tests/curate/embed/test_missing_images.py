"""Pictures that lie beside the rows: missing on one side, missing for a while, and found again."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.curate.builders import MODELS, Outcome, picture_bytes

Curate = Callable[..., Outcome]
PAIRS = 6


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Six pairs of twelve pictures by path; those of side 0 are there."""
    rows = [
        {"prompt": f"a red circle {i}", "image_0_path": f"0-{i}.jpg", "image_1_path": f"1-{i}.jpg", "label_0": 1.0}
        for i in range(PAIRS)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "pairs.parquet")
    names = ", ".join(f'{name} = "{name}"' for name in rows[0])
    (tmp_path / "mine.toml").write_text(f'splits.train.files = ["pairs.parquet"]\ncolumns = {{ {names} }}\n')
    draw(tmp_path, 0, range(PAIRS))
    return tmp_path / "mine.toml"


def draw(folder: Path, side: int, which: range) -> None:
    for i in which:
        (folder / f"{side}-{i}.jpg").write_bytes(picture_bytes(10 * i + side))


def embed(curate: Curate, manifest: Path, run: str) -> Outcome:
    options = ["--models", MODELS, "--device", "cpu", "--part-images", 5]
    return curate("embed", "--manifest", manifest, "--run", manifest.parent / run, *options)


def test_a_missing_side_is_an_error_and_what_comes_later_is_found(curate: Curate, manifest: Path) -> None:
    folder = manifest.parent
    none = embed(curate, manifest, "run")
    assert (none.code, none.out) == (1, "")
    assert none.err.splitlines()[-1].startswith(
        "curate: not one of the 6 pairs has both of its pictures: 6 image_missing; such as "
        f"{folder}/pairs.parquet row group 0 row 0 image 1: "
    )
    draw(folder, 1, range(1))
    one = embed(curate, manifest, "run")
    assert "1 images that were missing can be read now; the 1 parts with them are computed again\n" in one.err
    assert one.out.splitlines()[1] == "images  12 = 7 scored + 5 image_missing"
    assert json.loads((folder / "run/embed.json").read_text())["parts_computed"] == 1
    same = embed(curate, manifest, "run")
    assert "computed again" not in same.err
    draw(folder, 1, range(PAIRS))
    assert embed(curate, manifest, "run").out.splitlines()[1] == "images  12 = 12 scored"
    assert embed(curate, manifest, "whole").code == 0
    for table in ("images", "scores", "prompts", "dropped"):
        assert pq.read_table(folder / "run" / table).equals(pq.read_table(folder / "whole" / table)), table
