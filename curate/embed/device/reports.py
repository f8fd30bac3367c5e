"""What the devices of a run have done so far: each reports, RunProgress adds up. Light: nothing here loads torch."""

import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from curate.errors import SourceError

ALL_BAD_IMAGES = 200
"""So many images, every one dropped, and the run ends: it is the source that is bad, not its images."""
SAMPLE = 5


class DroppedImage(NamedTuple):
    """One dropped image: which, where it lies, and why."""

    image_uid: str
    file: str
    row_group: int
    row: int
    side: int
    reason: str
    detail: str


@dataclass(frozen=True)
class DeviceReport:
    """What one device did since its last report; it travels between processes and machines by pickle.

    images counts the dropped ones, too; examples is a sample of them. busy_sec is the time that the towers
    computed, of elapsed_sec; parts is how many were written; batch_images the largest batch that it now computes.
    """

    device: str
    images: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    examples: tuple[DroppedImage, ...] = ()
    parts: int = 0
    busy_sec: float = 0.0
    elapsed_sec: float = 0.0
    batch_images: int | None = None


class RunProgress:
    """Sum of every device's reports; `add` may be called from any thread."""

    def __init__(
        self, images: int, parts: int, images_before: int = 0, parts_before: int = 0, scored_before: bool = False
    ) -> None:
        """images, parts: all of the run; *_before: those that stood before, and whether any of them was scored."""
        self.images, self.parts = images, parts
        self.images_before, self.parts_before, self.scored_before = images_before, parts_before, scored_before
        self.restart()
        self.done_images = self.done_parts = 0
        self.dropped: Counter[str] = Counter()
        self.examples: list[DroppedImage] = []
        self.devices: dict[str, Counter[str]] = {}
        self.batches: dict[str, int | None] = {}
        self._lock = threading.Lock()

    def restart(self, seconds_ago: float = 0.0) -> None:
        """The clock starts now, or so long ago: what came before was not images."""
        self.started = time.monotonic() - seconds_ago

    def add(self, done: DeviceReport) -> None:
        """Count a report. Raises SourceError when every image so far was dropped, and they are many."""
        with self._lock:
            self.done_images += done.images
            self.done_parts += done.parts
            self.dropped.update(done.dropped)
            self.examples += done.examples[: SAMPLE - len(self.examples)]
            device = self.devices.setdefault(done.device, Counter())
            self.batches[done.device] = done.batch_images or self.batches.get(done.device)
            device["images"] += done.images
            device["busy_ms"] += round(1000 * done.busy_sec)
            device["elapsed_ms"] += round(1000 * done.elapsed_sec)
        if not self.scored_before and self.done_images == self.dropped.total() >= ALL_BAD_IMAGES:
            raise SourceError(self._all_bad())

    def numbers(self) -> dict[str, Any]:
        """What `curate status` shows; seconds_left is null until something is done."""
        with self._lock:
            elapsed = max(time.monotonic() - self.started, 1e-9)
            done = min(self.images, self.images_before + self.done_images)  # a dead worker's images count twice
            left = self.images - done
            return {
                "images_done": done,
                "images": self.images,
                "parts_done": self.parts_before + self.done_parts,
                "parts": self.parts,
                "images_per_sec": self.done_images / elapsed,
                "busy_share": _share(sum(self.devices.values(), Counter())),
                "dropped": dict(sorted(self.dropped.items())),
                "elapsed_sec": elapsed,
                "seconds_left": left * elapsed / self.done_images if self.done_images else None,
                "devices": {
                    name: {"images": counts["images"], "busy_share": _share(counts), "batch": self.batches[name]}
                    for name, counts in sorted(self.devices.items())
                },
            }

    def _all_bad(self) -> str:
        counts = ", ".join(f"{count:,} {reason}" for reason, count in sorted(self.dropped.items()))
        sample = "; ".join(
            f"{one.file} row group {one.row_group} row {one.row}: {one.reason} ({one.detail})" for one in self.examples
        )
        return (
            f"not one of the first {self.done_images:,} images can be used: {counts}; such as {sample}; correct the "
            "manifest's image columns or the files, or leave bad files out by --source, then run again"
        )


def _share(counts: Counter[str]) -> float | None:
    return counts["busy_ms"] / counts["elapsed_ms"] if counts["elapsed_ms"] else None


@dataclass(frozen=True)
class PromptsDone:
    """A part of the prompts stands, computed or found."""

    part: str
    prompts: int
