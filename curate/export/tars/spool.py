"""Images that are encoded anew, or of unknown length, kept in one temporary file until the shards are laid out."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryFile
from threading import Lock
from typing import IO, Protocol

from curate.errors import RunError
from curate.export.encoding import Encoding, encoded_anew
from curate.export.samples import SIDES, ImageFacts, SelectedPairs, facts_of, location_of
from curate.sources.parquet import Encoded, Location, Source
from curate.storage.threads import in_threads
from curate.terminal.progress import progress


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


def spooled(
    stack: ExitStack, pairs: SelectedPairs, source: Source, folder: Path, encoding: Encoding, workers: int
) -> Spool | None:
    """All images read once into a spool in `folder`, where their lengths are not known before; else None."""
    if pairs.measured and not encoding.changes:
        return None
    wanted = {location_of(row, side): facts_of(row, side) for row in pairs.rows() for side in SIDES}
    stream = stack.enter_context(TemporaryFile(dir=folder))  # noqa: SIM115 -- the stack closes it
    spool = Spool(stream, encoding)

    def read(locations: list[Location]) -> int:
        for location, data in source.read_images(locations):
            if data is None or hashlib.sha256(data).hexdigest() != wanted[location].sha256:
                raise RunError(f"{location.words()} is not the one that was scored; embed again")
            spool.add(location, data, wanted[location])
        return len(locations)

    title = "images encoded anew" if encoding.changes else "images measured"
    row_groups = groupby(sorted(wanted), key=lambda place: (place.file, place.row_group))
    with progress(title, len(wanted)) as advance:
        for done in in_threads(read, (list(locations) for _, locations in row_groups), workers):
            advance(done)
    return spool


def write_all(descriptor: int, data: Encoded, offset: int) -> None:
    """`os.pwrite` until every byte is written: one call may write less."""
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
