"""A tower and a source that cost next to nothing: for tests and benchmarks of what goes on around the towers."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image

from curate.embed.planning.plan import Part
from curate.models.heads import CosineHead
from curate.models.scoring import EmbeddedPrompts, Scoring
from curate.sources.manifest import Manifest
from curate.sources.parquet import Location
from curate.storage.run import Run

DIMENSION = 4


def cheap_pixels(image: Image.Image) -> torch.Tensor:
    """(3, 8, 8), float32."""
    return torch.from_numpy(np.asarray(image.resize((8, 8)), np.float32).transpose(2, 0, 1).copy()) / 255


class CheapTower:
    """Means of the picture's quarters, and of a prompt's letters."""

    name = "cheap"
    dimension = DIMENSION
    scale = 1.0
    preprocessing = "8x8"

    def __init__(self, preprocess: Callable[[Image.Image], torch.Tensor] = cheap_pixels) -> None:
        self.preprocess = preprocess
        self.identity: dict[str, Any] = {"model": "cheap"}
        self.batches: list[int] = []

    def embed_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """(n, 3, 8, 8) -> (n, 4), of length 1."""
        self.batches.append(len(pixels))
        return torch.nn.functional.normalize(pixels.reshape(len(pixels), DIMENSION, -1).mean(-1) + 0.01, dim=-1)

    def embed_prompts(self, prompts: list[str]) -> torch.Tensor:
        """n prompts -> (n, 4), of length 1."""
        codes = [[float(sum(map(ord, text)) % (7 + i)) + 1 for i in range(DIMENSION)] for text in prompts]
        return torch.nn.functional.normalize(torch.tensor(codes), dim=-1)


def cheap_scoring(preprocess: Callable[[Image.Image], torch.Tensor] = cheap_pixels) -> Scoring:
    """One cheap tower and one scorer on it."""
    tower: Any = CheapTower(preprocess)  # what a run needs of a tower, not all that a device may want
    return Scoring({"cheap": tower}, {"clip": (CosineHead(), "cheap")}, {"towers": {}}, "cheap")


PROMPTS = EmbeddedPrompts({"p": 0}, ["a prompt"], {"cheap": CheapTower().embed_prompts(["a prompt"])})


@dataclass
class MadeSource:
    """Images made when they are asked for: `group_images` to a row group, by their number in the file."""

    data: Callable[[int], bytes | None]
    group_images: int = 10
    read: list[tuple[str, int]] = field(default_factory=list)
    manifest: Manifest = field(default_factory=lambda: Manifest("made", Path("made"), {}, {}, "train"))

    def read_images(self, locations: Iterable[Location]) -> Iterator[tuple[Location, bytes | None]]:
        """As Source.read_images."""
        wanted = sorted(locations)
        self.read += sorted({item[:2] for item in wanted})
        for item in wanted:
            yield item, self.data(item.row_group * self.group_images + item.row)


def made_parts(images: int, part_images: int, group_images: int = 10) -> list[Part]:
    """Parts over images `image-0` ... of one file; each is matched with the prompt `p`."""
    placed = [(f"image-{i}", Location("made.parquet", i // group_images, i % group_images, 0)) for i in range(images)]
    cuts = [tuple(placed[start : start + part_images]) for start in range(0, images, part_images)]
    return [Part(index, cut, {uid: ("p",) for uid, _ in cut}) for index, cut in enumerate(cuts)]


def column(run: Run, table: str, name: str) -> list[Any]:
    """One column of a run's table, in the order of its parts."""
    return pq.read_table(run.table(table), columns=[name])[name].to_pylist()
