"""What a layout is given: the pairs one by one, best first, and a place for its files."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from curate.export.destination import Destination
from curate.export.layouts.store import Store, Stored
from curate.export.order import in_split
from curate.export.samples import SIDES, Row, SelectedPairs, key_of
from curate.storage.tables import writing
from curate.terminal.progress import Advance


@dataclass(frozen=True)
class Sample:
    """One pair. key: its rank, zero-padded. models: that made the images, where known.

    images: the preferred and the rejected one. meta: the `json` of a shard's sample.
    """

    key: str
    prompt: str
    images: tuple[Stored, ...]
    models: tuple[str | None, str | None]
    meta: dict[str, Any]

    @property
    def preferred(self) -> bytes:
        """The preferred image, encoded."""
        return self.images[0].read()

    @property
    def rejected(self) -> bytes:
        """The rejected image, encoded."""
        return self.images[1].read()

    @property
    def caption(self) -> str:
        """The prompt on one line: trainers take each line of a text file for a caption of its own."""
        return " ".join(self.prompt.splitlines())


def samples_of(rows: Iterable[Row], pairs: SelectedPairs, store: Store, advance: Advance) -> Iterator[Sample]:
    """The pairs, best first; progress as a layout takes them."""
    for row in rows:
        images = tuple(store.image(row["place"], side) for side in SIDES)
        meta = pairs.sample_meta(row, tuple(image.facts for image in images))
        models = row["preferred_model"], row["rejected_model"]
        yield Sample(key_of(row), row["prompt"], images, models, meta)
        advance(1)


class Output:
    """The folder or URL of one export, or of one split of it. Each file is whole under its name, or not there.

    pairs: how many samples will come. extension: of every image, without the dot. location: as it was named, a path
    made absolute. workers: threads that a layout may take; both methods stand several at once.
    """

    def __init__(self, destination: Destination, pairs: int, extension: str, split: str = "", workers: int = 1) -> None:
        self.pairs, self.extension, self.workers = pairs, extension, workers
        elsewhere = destination.remote or destination.repository is not None
        location = destination.output if elsewhere else str(destination.staging.absolute())
        self.location = f"{location}/{split}" if split else location
        self.files = self.size_bytes = 0
        self._destination, self._split = destination, split
        self._folders: set[Path] = set()
        self._lock = Lock()

    def write(self, name: str, data: bytes) -> None:
        """A file, / between folders. Raises: WriteError, UploadError."""
        with self.file(name) as path:
            path.write_bytes(data)

    @contextmanager
    def file(self, name: str) -> Iterator[Path]:
        """A path to write a file to, which gets its name when the block ends well. Raises: WriteError, UploadError."""
        name = in_split(self._split, name)
        staged = self._destination.staged(name)
        try:
            with writing(staged):
                if staged.parent not in self._folders:
                    staged.parent.mkdir(parents=True, exist_ok=True)
                    self._folders.add(staged.parent)
                yield staged
                size_bytes = staged.stat().st_size
            self._destination.publish(name)
        except BaseException:
            staged.unlink(missing_ok=True)
            raise
        with self._lock:
            self.files, self.size_bytes = self.files + 1, self.size_bytes + size_bytes
