"""Pictures in a terminal of 24-bit colour, two pixels to a character: the upper half in front, the lower behind."""

from PIL import Image
from rich.console import Console
from rich.segment import Segment, Segments
from rich.style import Style


def beside(pictures: list[Image.Image], gap_px: int = 8) -> Image.Image:
    """Pictures brought to the height of the lowest, side by side on white."""
    height = min(picture.height for picture in pictures)
    same = [picture.resize((max(1, round(picture.width * height / picture.height)), height)) for picture in pictures]
    whole = Image.new("RGB", (sum(one.width for one in same) + gap_px * (len(same) - 1), height), "white")
    left = 0
    for one in same:
        whole.paste(one, (left, 0))
        left += one.width + gap_px
    return whole


def draw(console: Console, picture: Image.Image) -> None:
    """As wide as the terminal, at most 100 characters and 80 pixels high."""
    scale = min(min(console.width, 100) / picture.width, 80 / picture.height, 1.0)
    small = picture.convert("RGB").resize(
        (max(1, int(picture.width * scale)), max(2, int(picture.height * scale) // 2 * 2))
    )
    pixels = small.load()
    assert pixels is not None
    segments = []
    for row in range(0, small.height, 2):
        for column in range(small.width):
            upper, lower = (f"rgb{pixels[column, row + n]}".replace(" ", "") for n in (0, 1))
            segments.append(Segment("\u2580", Style(color=upper, bgcolor=lower)))
        segments.append(Segment.line())
    console.print(Segments(segments), end="")
