"""The unique images cut into parts: bounded slices, each the unit of work, of resuming and of parallelism."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import polars as pl

from curate.sources.parquet import Location

SLACK = 1.5
"""A row group of up to so many times the limit stays whole: reading it twice costs more than a larger part."""


@dataclass(frozen=True)
class Part:
    """A bounded slice of the unique images, with each image's location and the prompts that it is paired with."""

    index: int
    images: tuple[tuple[str, Location], ...]  # (image_uid, where its bytes are)
    prompt_ids: dict[str, tuple[str, ...]]  # image_uid -> prompts of the pairs it occurs in

    @property
    def name(self) -> str:
        """File stem of the part's tables."""
        return part_name(self.index)


def part_name(index: int) -> str:
    """File stem of the tables of the part with this index."""
    return f"part-{index:05d}"


@dataclass(frozen=True)
class Parts(Sequence[Part]):
    """Parts that are made when they are asked for: a million images as Python objects would take a gigabyte.

    images: image_uid, file and prompts (both as numbers, prompts with repetitions), row_group, row, side, size_bytes,
    in the source's order.
    bounds: part i is the images from bounds[i] to bounds[i + 1]; indices: which parts these are.
    """

    images: pl.DataFrame
    bounds: tuple[int, ...]
    files: tuple[str, ...]
    prompt_ids: pl.Series
    indices: Sequence[int]

    def __len__(self) -> int:
        return len(self.indices)

    @overload
    def __getitem__(self, place: int) -> Part: ...
    @overload
    def __getitem__(self, place: slice) -> "Parts": ...
    def __getitem__(self, place: int | slice) -> "Part | Parts":
        if isinstance(place, slice):
            return self.only(self.indices[place])
        index = self.indices[place]
        start, end = self.bounds[index : index + 2]
        located, prompts_of = [], {}
        columns = ("image_uid", "prompts", "file", "row_group", "row", "side")
        for uid, prompts, file, *place_in_file in self.images[start:end].select(columns).iter_rows():
            located.append((uid, Location(self.files[file], *place_in_file)))
            prompts_of[uid] = tuple(self.prompt_ids[prompt] for prompt in dict.fromkeys(prompts))
        return Part(index, tuple(located), prompts_of)

    def only(self, indices: Sequence[int]) -> "Parts":
        """Those of the given indices."""
        return Parts(self.images, self.bounds, self.files, self.prompt_ids, indices)

    @property
    def image_count(self) -> int:
        """Unique images of these parts."""
        return sum(self.bounds[index + 1] - self.bounds[index] for index in self.indices)


def cut(images: pl.DataFrame, part_bytes: int, part_images: int) -> tuple[int, ...]:
    """Bounds of the parts.

    images: row_group, file and size_bytes, in the source's order. Where sizes are known, a row group is read by
    one part, or by two if it exceeds the limits; where images lie outside the Parquet files, only their number counts.
    """
    if images["size_bytes"].null_count():
        return (*range(0, images.height, part_images), images.height)
    groups = images.group_by("file", "row_group", maintain_order=True).agg(pl.len(), pl.col("size_bytes").sum())
    bounds = [0]
    for count in _part_sizes(groups.select("len", "size_bytes").iter_rows(), part_bytes, part_images):
        bounds.append(bounds[-1] + count)
    return tuple(bounds)


def _part_sizes(groups: Iterable[tuple[int, float]], part_bytes: int, part_images: int) -> Iterator[int]:
    """Images of each part, given images and bytes of each row group."""
    gathered, gathered_bytes = 0, 0.0
    for images, size_bytes in groups:
        if gathered and (gathered + images > part_images or gathered_bytes + size_bytes > part_bytes):
            yield gathered
            gathered, gathered_bytes = 0, 0.0
        if images > 1 and (images > SLACK * part_images or size_bytes > SLACK * part_bytes):
            yield from (images // 2, images - images // 2)
        else:
            gathered, gathered_bytes = gathered + images, gathered_bytes + size_bytes
    if gathered:
        yield gathered
