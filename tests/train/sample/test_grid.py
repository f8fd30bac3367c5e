from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from train.sample.grid import SIDE_PX, Tile, draw_grid, save_grid


def tiles(count: int, size: int = 64) -> list[Tile]:
    left, right = Image.new("RGB", (size, size), "red"), Image.new("RGB", (size, size), "blue")
    return [Tile(f"prompt {number} " + "and more words " * 20, left, right) for number in range(count)]


@pytest.mark.parametrize("count", [1, 2, 5, 8])
@pytest.mark.parametrize("size", [32, 64, 512])
def test_every_picture_is_shown_at_one_size(count: int, size: int) -> None:
    pixels = np.asarray(draw_grid(tiles(count, size), ("base", "trained"), "base: a " + "long " * 40))
    for colour in ((255, 0, 0), (0, 0, 255)):
        assert (pixels == colour).all(axis=-1).sum() == count * SIDE_PX**2


def test_captions_and_titles_are_drawn_inside(tmp_path: Path) -> None:
    save_grid(tmp_path / "grid.png", tiles(3), ("base", "trained" * 9), "base: a")
    pixels = np.asarray(Image.open(tmp_path / "grid.png"))
    assert (pixels[:, :4] == 255).all()
    assert (pixels[:, -4:] == 255).all()
    assert (pixels[-4:] == 255).all()
    assert (pixels < 128).all(axis=-1).any()
