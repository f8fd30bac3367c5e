"""What `curate embed` takes, and what one worker is told of it. Light: nothing here loads torch."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from curate.errors import UsageError
from curate.models.model_set import DEFAULT_SCORERS
from curate.sources.manifest import DEMO

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
PART_BYTES = 256_000_000


@dataclass(frozen=True)
class EmbedOptions:
    """Each option of `curate embed`, with the command's default; None is what its help calls the default.

    manifest, models: a bundled name, or a TOML file. source: paths, globs or URLs instead of the manifest's files;
    images: folders, URLs or archives instead of the manifest's, where relative paths start; unpack: a folder for
    archives that cannot be read by parts. dimension: of several questions about a pair, the one that counts.
    batch_images: of one forward pass; None: as many as is fast. part_range: compute these parts only.
    parity: score so many images in float32 too, and report what differs.
    """

    manifest: str = DEMO
    source: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    unpack: Path | None = None
    dimension: str | None = None
    split: str | None = None
    models: str | None = None
    scorers: tuple[str, ...] = DEFAULT_SCORERS
    device: str = "auto"
    precision: str = "auto"
    batch_images: int | None = None
    compiled: bool = False
    decode: str = "pillow"
    decode_processes: int | None = None
    part_images: int = 4096
    part_bytes: int = PART_BYTES
    part_range: range | None = None
    workers: int | None = None
    engine: str = "local"
    address: str | None = None
    parity: int | None = None


@dataclass(frozen=True)
class ComputeOptions:
    """How the work is cut: images of a forward pass, images and bytes of a part, what decodes, row groups read ahead.

    batch_images None: found. decode_processes 0: `decode_threads` threads decode.
    """

    device: str
    precision: str
    batch_images: int | None = 64
    part_images: int = 4096
    decode_threads: int = CORES
    decode_processes: int = 0
    groups_ahead: int = 2
    part_bytes: int = PART_BYTES
    decode: str = "pillow"
    compiled: bool = False


def parse_batch(wanted: str) -> int | None:
    """`auto` is None. Raises UsageError for anything but that and a positive whole number."""
    if wanted == "auto":
        return None
    if not wanted.isascii() or not wanted.isdigit() or int(wanted) < 1:
        raise UsageError(f"--batch {wanted}: give auto, or a whole number of pictures from 1 up")
    return int(wanted)
