"""WebDataset tars, by the library's own writer: cut in the samples' order, each written by one thread.

The same selection gives the same bytes, whatever the number of threads.
"""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from curate.export.layouts.store import Stored
from curate.export.order import ShardSize, SplitShare, in_split, split_of
from curate.export.samples import SIDES, ImageFacts, Row, SelectedPairs, content_sha256, key_of
from curate.storage.tables import writing
from schemas import shards

OWNER = "pairsieve"
HEADER_BYTES = 3 * tarfile.BLOCKSIZE  # of a member: a float as time of change costs the two blocks of a pax header
END_BYTES = 2 * tarfile.BLOCKSIZE
COPIED_TOGETHER_BYTES = 1 << 24
Sides = tuple[ImageFacts, ...]


@dataclass
class Shard:
    """The samples of one tar. name: below the output. size_bytes: so far, where the size is limited."""

    name: str
    split: str
    rows: list[Row] = field(default_factory=list)
    size_bytes: int = 0

    def content_sha256(self, pairs: SelectedPairs) -> str:
        """Of all that decides the tar's bytes; known before an image is read."""
        return content_sha256(pairs, "tar", self.rows)


def cut(
    pairs: SelectedPairs, size: ShardSize, shares: tuple[SplitShare, ...], facts_of_row: Callable[[Row], Sides]
) -> Iterator[Shard]:
    """The shards, each when it is full; the last ones of all splits at the end. facts_of_row: for `size_bytes`."""
    open_shards = {split: Shard(_name(split, 0), split) for split in [share.name for share in shares] or [""]}
    numbers = dict.fromkeys(open_shards, 0)
    for row in pairs.rows():
        shard = open_shards[split := split_of(row["prompt"], shares)]
        sample_bytes = 0 if size.size_bytes is None else _sample_bytes(pairs, row, facts_of_row(row))
        ends = -(-(shard.size_bytes + sample_bytes + END_BYTES) // tarfile.RECORDSIZE) * tarfile.RECORDSIZE
        too_long = size.size_bytes is not None and ends > size.size_bytes
        if shard.rows and (len(shard.rows) >= size.pairs or too_long):
            yield shard
            numbers[split] += 1
            shard = open_shards[split] = Shard(_name(split, numbers[split]), split)
        shard.rows.append(row)
        shard.size_bytes += sample_bytes
    yield from (shard for shard in open_shards.values() if shard.rows)


def write_tar(path: Path, pairs: SelectedPairs, shard: Shard, images: list[tuple[Stored, ...]]) -> tuple[int, str]:
    """Write a tar, flushed to the disk; its size and sha256. images: of both sides of each sample.

    Raises: WriteError.
    """
    from webdataset.writer import TarWriter  # loads torch

    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            _Hashed(io.FileIO(path, "w")) as stream,
            TarWriter(stream, user=OWNER, group=OWNER, mtime=0.0, encoder=False) as tar,
        ):
            # Its own writes a stream in pieces of 10 kB, each of which waits for Python's lock; the bytes are the same.
            tar.tarstream = tarfile.TarFile(fileobj=stream, mode="w")
            tar.tarstream.copybufsize = COPIED_TOGETHER_BYTES
            for row, sides in zip(shard.rows, images, strict=True):
                members = {f"{side}.{pairs.extension}": one.read() for side, one in zip(SIDES, sides, strict=True)}
                meta, prompt = _texts(pairs, row, tuple(one.facts for one in sides))
                tar.write({"__key__": key_of(row), shards.META: meta, shards.PROMPT: prompt, **members})
            tar.close()
            stream.flush()
            os.fsync(stream.fileno())
        return path.stat().st_size, stream.digest.hexdigest()


class _Hashed(io.BufferedWriter):
    """A file whose bytes are hashed as they are written, one after the other."""

    def __init__(self, raw: io.FileIO) -> None:
        super().__init__(raw)
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self.digest.update(data)
        return super().write(data)


def _texts(pairs: SelectedPairs, row: Row, facts: Sides) -> tuple[bytes, bytes]:
    meta = json.dumps(pairs.sample_meta(row, facts), ensure_ascii=False)
    return meta.encode("utf-8"), row["prompt"].encode("utf-8")


def _sample_bytes(pairs: SelectedPairs, row: Row, facts: Sides) -> int:
    """Of four members with their headers, each filled up to whole blocks."""
    sizes = [*map(len, _texts(pairs, row, facts)), *(one.size_bytes for one in facts)]
    return sum(HEADER_BYTES - (-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE for size in sizes)


def _name(split: str, number: int) -> str:
    return in_split(split, shards.SHARD_NAME.format(index=number))
