"""Images that are encoded anew, or of unknown length, kept in one temporary file until the shards are laid out."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from threading import Lock
from typing import IO, Protocol

from curate.export.encoding import Encoding, encoded_anew
from curate.export.samples import ImageFacts
from curate.sources.parquet import Encoded, Location


class ImageReader(Protocol):
    """Where the bytes of the shards' images come from: the source, or a spool."""

    def read_images(self, locations: Iterable[Location]) -> Iterator[tuple[Location, Encoded | None]]: ...


class Spool:
    """Encoded images by location in one file, `stream`, that is empty and the caller's to close."""

    def __init__(self, stream: IO[bytes], encoding: Encoding) -> None:
        self.encoding = encoding
        self.facts: dict[Location, ImageFacts] = {}
        self._stream = stream
        self._offsets: dict[Location, int] = {}
        self._end, self._lock = 0, Lock()

    def add(self, location: Location, data: Encoded, was: ImageFacts) -> None:
        """Keep one image, changed as asked; from several threads at once."""
        facts = was._replace(size_bytes=len(data))
        if self.encoding.changes:
            data, image_format, width, height = encoded_anew(bytes(data), self.encoding, location.words())
            facts = ImageFacts(hashlib.sha256(data).hexdigest(), len(data), image_format, width, height)
        with self._lock:
            offset, self._end = self._end, self._end + len(data)
            self._offsets[location], self.facts[location] = offset, facts
        write_all(self._stream.fileno(), data, offset)

    def read_images(self, locations: Iterable[Location]) -> Iterator[tuple[Location, Encoded | None]]:
        """The kept bytes, in the order in which they lie."""
        for location in sorted(set(locations), key=self._offsets.__getitem__):
            size_bytes = self.facts[location].size_bytes
            yield location, os.pread(self._stream.fileno(), size_bytes, self._offsets[location])


def write_all(descriptor: int, data: Encoded, offset: int) -> None:
    """`os.pwrite` until every byte is written: one call may write less."""
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
