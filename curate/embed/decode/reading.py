"""Encoded images in the order of the parts, read row group by row group, and cut into batches."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import pyarrow as pa

from curate.embed.planning.plan import Part
from curate.errors import SourceError
from curate.sources.parquet import Location, Source

READ_BYTES = 128_000_000
"""Encoded images that are handed on at a time: of a row group of any size no more is held."""


class EncodedImage(NamedTuple):
    """One image before decoding; `data` is None where the source has no bytes."""

    image_uid: str
    location: Location
    data: bytes | None


@dataclass(frozen=True)
class Batch:
    """Images of one part: of a row group as they are read, then of one forward pass; `last` marks the part's last."""

    part: Part
    images: list[EncodedImage]
    last: bool


def read_groups(source: Source, parts: Iterable[Part]) -> Iterator[Batch]:
    """Each part's images row group by row group, up to READ_BYTES at a time. Raises: SourceError."""
    for part in parts:
        if not part.images:
            raise SourceError(f"part {part.index} has no images")
        left = len(part.images)
        for _, members in groupby(part.images, key=lambda image: image[1][:2]):
            for images in _encoded(source, {place: uid for uid, place in members}):
                left -= len(images)
                yield Batch(part, images, left == 0)


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


def _encoded(source: Source, uids: dict[Location, str]) -> Iterator[list[EncodedImage]]:
    """The images of one row group, in the order of their places, which is the part's."""
    gathered, gathered_bytes = list[EncodedImage](), 0
    for place, data in source.read_images(uids):
        gathered.append(EncodedImage(uids[place], place, bytes(data) if isinstance(data, pa.Buffer) else data))
        gathered_bytes += len(data or b"")
        if gathered_bytes >= READ_BYTES:
            yield gathered
            gathered, gathered_bytes = [], 0
    if gathered:
        yield gathered
