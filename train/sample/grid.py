"""A picture of pictures: the same prompts and noise, base beside trained, for a person to judge."""

import textwrap
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from train.files import whole_file

SIDE_PX = 192  # a picture is shown at about this size
GAP_PX, MARGIN_PX = 8, 28
TITLE_PX, CAPTION_PX = 18, 15
TILES_PER_ROW = 2
CAPTION_LINES = 2
INK, FAINT, PAPER = "#1a1a1a", "#666666", "#ffffff"


class Tile(NamedTuple):
    """One prompt drawn by both models; left and right as the titles name them."""

    caption: str
    left: Image.Image
    right: Image.Image


def save_grid(path: Path, tiles: list[Tile], titles: tuple[str, str], heading: str) -> None:
    """Write a PNG: two tiles a row, each two pictures with their prompt below. Raises: StorageError."""
    canvas = draw_grid(tiles, titles, heading)
    with whole_file(path) as temporary:
        canvas.save(temporary, "PNG")


def draw_grid(tiles: list[Tile], titles: tuple[str, str], heading: str) -> Image.Image:
    """The grid itself; at least one tile."""
    across = min(TILES_PER_ROW, len(tiles))
    rows = -(-len(tiles) // across)
    side = _shown(tiles[0].left).height
    tile_width = 2 * side + GAP_PX
    caption_height = CAPTION_LINES * (CAPTION_PX + 4) + GAP_PX
    tile_height = side + caption_height
    top = MARGIN_PX + CAPTION_PX + 2 * GAP_PX + TITLE_PX + GAP_PX
    width = across * tile_width + (across + 1) * MARGIN_PX
    canvas = Image.new("RGB", (width, top + rows * (tile_height + GAP_PX) + MARGIN_PX - GAP_PX), PAPER)
    pen = ImageDraw.Draw(canvas)
    shown_heading = _fitted(heading, width - 2 * MARGIN_PX, CAPTION_PX)
    pen.text((MARGIN_PX, MARGIN_PX // 2), shown_heading, FAINT, ImageFont.load_default(CAPTION_PX))
    for column in range(across):
        left = MARGIN_PX + column * (tile_width + MARGIN_PX)
        for place, title in enumerate(titles):
            x = left + place * (side + GAP_PX) + side // 2
            pen.text(
                (x, top - GAP_PX), _fitted(title, side, TITLE_PX), INK, ImageFont.load_default(TITLE_PX), anchor="ms"
            )
    for number, tile in enumerate(tiles):
        row, column = divmod(number, across)
        x, y = MARGIN_PX + column * (tile_width + MARGIN_PX), top + row * (tile_height + GAP_PX)
        canvas.paste(_shown(tile.left), (x, y))
        canvas.paste(_shown(tile.right), (x + side + GAP_PX, y))
        caption = _wrapped(tile.caption, tile_width)
        centre = (x + tile_width // 2, y + side + GAP_PX // 2)
        pen.text(centre, caption, FAINT, ImageFont.load_default(CAPTION_PX), anchor="ma", align="center")
    return canvas


def _shown(image: Image.Image) -> Image.Image:
    """Small pictures grow by a whole factor with their pixels kept sharp; large ones shrink."""
    if max(image.size) <= SIDE_PX:
        factor = SIDE_PX // max(image.size)
        return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    scale = SIDE_PX / max(image.size)
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)


def _fitted(text: str, width_px: int, size_px: int) -> str:
    """`text`, its middle left out when it is too wide."""
    font, shown = ImageFont.load_default(size_px), text
    kept = len(text)
    while font.getlength(shown) > width_px and kept > 4:
        kept -= 1
        shown = f"{text[: kept // 2]}…{text[-(kept // 2) :]}"
    return shown


def _wrapped(text: str, width_px: int) -> str:
    font = ImageFont.load_default(CAPTION_PX)
    characters = max(8, int(width_px / font.getlength("n")))
    return "\n".join(textwrap.wrap(text, characters, max_lines=CAPTION_LINES, placeholder=" …"))
