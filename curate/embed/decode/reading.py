"""Encoded images in the order of the parts: whole row groups are read, and cut into batches."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from curate.embed.planning.plan import Part
from curate.errors import SourceError
from curate.sources.parquet import Location, Source


class EncodedImage(NamedTuple):
    """One image before decoding; `data` is None where the source has no bytes."""

    image_uid: str
    location: Location
    data: bytes | None


@dataclass(frozen=True)
class Batch:
    """Images of one part: of one row group as they are read, then of one forward pass; `last` marks the part's last."""

    part: Part
    images: list[EncodedImage]
    last: bool


def read_groups(source: Source, parts: Iterable[Part]) -> Iterator[Batch]:
    """Each part's images row group by row group, of the needed columns and rows only. Raises: SourceError."""
    for part in parts:
        if not part.images:
            raise SourceError(f"part {part.index} has no images")
        left = len(part.images)
        for _, members in groupby(part.images, key=lambda image: image[1][:2]):
            located = list(members)
            left -= len(located)
            yield Batch(part, _encoded(source, located), left == 0)


def cut_batches(groups: Iterable[Batch], batch_images: int) -> Iterator[Batch]:
    """Batches of `batch_images`, in order; what is left of a part is its last, smaller batch."""
    waiting: list[EncodedImage] = []
    for group in groups:
        waiting += group.images
        part, last = group.part, group.last
        del group  # its images go with the batches that they are in
        while len(waiting) >= batch_images or (last and waiting):
            batch, waiting = waiting[:batch_images], waiting[batch_images:]
            yield Batch(part, batch, last and not waiting)


def _encoded(source: Source, located: list[tuple[str, Location]]) -> list[EncodedImage]:
    data = source.image_bytes([location for _, location in located])
    return [EncodedImage(uid, location, data[location]) for uid, location in located]
