"""Pictures read back from the source, what becomes of those that are gone, and thumbnails."""

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from curate.database.connection import connect_views
from curate.pages.pictures import data_uri, originals, thumbnail, thumbnails
from curate.sources.images import Rejected
from curate.storage.run import Run
from tests.curate.builders import picture_bytes

UIDS = ["image-1", "image-2"]


def picture(side: tuple[int, int]) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (side[1], side[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_pictures_come_in_the_order_asked_for(ranked_run: Path) -> None:
    run = Run(ranked_run)
    uids = ["image-9", "image-0", "nothing", "image-40"]
    found = list(thumbnails(run, connect_views(run), uids))
    assert [uid for uid, _ in found] == uids
    for uid, one in found:
        if uid == "nothing":
            assert one == Rejected("image_missing", "the run has no such image")
        else:
            assert isinstance(one, bytes)
            given = picture_bytes(int(uid.removeprefix("image-")))
            with Image.open(io.BytesIO(given)) as expected, Image.open(io.BytesIO(one)) as found_picture:
                np.testing.assert_array_equal(np.asarray(found_picture), np.asarray(expected.convert("RGB")))


def test_a_file_that_is_gone_costs_its_own_pictures_only(ranked_run: Path, tmp_path: Path) -> None:
    run = Run(Path(shutil.copytree(ranked_run, tmp_path / "run")))
    connection = connect_views(run)
    connection.execute("create or replace view images as select * replace (case when image_uid = 'image-2' then "
                       f"'{tmp_path}/gone.parquet' else source_file end as source_file) from "
                       f"read_parquet('{run.root}/images/*.parquet')")  # fmt: skip
    text = (run.root / "run.toml").read_text()
    (run.root / "run.toml").write_text(
        text.replace("[settings.files.", f'[settings.files."{tmp_path}/gone.parquet"]\nsize = 1\n\n[settings.files.', 1)
    )
    found = dict(thumbnails(run, connection, ["image-1", "image-2", "image-3"]))
    assert isinstance(found["image-1"], bytes)
    assert isinstance(found["image-3"], bytes)
    lost = found["image-2"]
    assert isinstance(lost, Rejected)
    assert lost.detail.startswith(f"{tmp_path}/gone.parquet is not there")


def test_a_source_replaced_since_shows_no_picture_beside_scores_of_another(ranked_run: Path) -> None:
    run = Run(ranked_run)
    connection = connect_views(run)
    connection.execute(
        "create or replace view images as select * replace "
        "(case when image_uid = 'image-2' then repeat('0', 64) else sha256 end as sha256) "
        f"from read_parquet('{run.root}/images/*.parquet')"
    )
    words = "the source has other bytes here than those that were scored; put the file back, or embed it again"
    for found in (dict(thumbnails(run, connection, UIDS)), originals(run, connection, UIDS)):
        assert found["image-2"] == Rejected("image_missing", words)
        assert isinstance(found["image-1"], bytes)


@pytest.mark.parametrize(("size", "expected"), [((64, 48), (64, 48)), ((512, 256), (256, 128)), ((200, 10), (200, 10))])
def test_thumbnails_are_bounded(size: tuple[int, int], expected: tuple[int, int]) -> None:
    with Image.open(io.BytesIO(thumbnail(picture(size)))) as small:
        assert (small.format, small.size) == ("WEBP", expected)


def test_a_small_picture_keeps_every_pixel_and_the_original_is_not_touched() -> None:
    small, large = picture((100, 128)), picture((300, 300))
    with Image.open(io.BytesIO(thumbnail(small))) as back:
        np.testing.assert_array_equal(np.asarray(back), np.asarray(small))
    thumbnail(large)
    assert large.size == (300, 300)


def test_a_data_uri() -> None:
    assert data_uri(b"RIFF") == "data:image/webp;base64,UklGRg=="
