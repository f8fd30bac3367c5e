"""Shards to pairs: each tar checked against shards.json, each sample against schemas/shards.py.

Images are not read here, only located: a tar is walked once, and `ImageLocation.read` fetches the bytes
of one image from its offset.
"""

import hashlib
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from schemas.shards import INDEX_FORMAT, META, PREFERRED, PROMPT, REJECTED, SHARD_INDEX
from train.errors import ShardError

SAME_EXPORT = "copy the shards again, or export them anew with `curate export-shards`"


class ImageLocation(NamedTuple):
    """Where the bytes of one unique image lie."""

    shard: Path
    member: str
    offset_bytes: int
    size_bytes: int

    def read(self) -> bytes:
        with self.shard.open("rb") as file:
            file.seek(self.offset_bytes)
            return file.read(self.size_bytes)

    def __str__(self) -> str:
        return f"{self.member} in {self.shard}"


HashedImage = tuple[str, ImageLocation]  # the sha256 of its bytes, and where they are


class Pair(NamedTuple):
    """One preference: indices into `PairSet.prompts` and `PairSet.images`. There are no ties in a shard."""

    prompt: int
    preferred: int
    rejected: int


@dataclass(frozen=True)
class PairSet:
    """All pairs of an export, in rank order, with its unique images and prompts and the tars' sha256."""

    pairs: list[Pair]
    images: list[ImageLocation]
    prompts: list[str]
    shard_hashes: list[str]

    def counts(self) -> dict[str, int]:
        return {
            "pairs": len(self.pairs),
            "unique_images": len(self.images),
            "unique_prompts": len(self.prompts),
        }


@dataclass
class _Collector:
    """Gives equal images (by sha256) and equal prompts one index each."""

    pairs: list[Pair] = field(default_factory=list)
    images: dict[str, tuple[int, ImageLocation]] = field(default_factory=dict)
    prompts: dict[str, int] = field(default_factory=dict)

    def add(self, prompt: str, preferred: tuple[str, ImageLocation], rejected: tuple[str, ImageLocation]) -> None:
        prompt_index = self.prompts.setdefault(prompt, len(self.prompts))
        sides = [self.images.setdefault(sha256, (len(self.images), at))[0] for sha256, at in (preferred, rejected)]
        self.pairs.append(Pair(prompt_index, *sides))


def read_pairs(folder: Path, *, verify: bool = True) -> PairSet:
    """The pairs of a folder of shards; with `verify`, each tar's sha256 is compared with shards.json.

    Raises: ShardError naming the tar and the sample.
    """
    entries = _index_entries(folder)
    collector = _Collector()
    for entry in entries:
        path = folder / entry["file"]
        _check_file(path, entry, verify=verify)
        before = len(collector.pairs)
        for key, members in _samples(path):
            collector.add(*_checked(path, key, members))
        found = len(collector.pairs) - before
        if found != entry["samples"]:
            raise ShardError(f"{path} holds {found} samples, {SHARD_INDEX} says {entry['samples']}; {SAME_EXPORT}.")
    if not collector.pairs:
        raise ShardError(f"{folder} holds no pairs; rank with a larger --top and export again.")
    return PairSet(
        pairs=collector.pairs,
        images=[location for _, location in collector.images.values()],
        prompts=list(collector.prompts),
        shard_hashes=[entry["sha256"] for entry in entries],
    )


def _index_entries(folder: Path) -> list[dict[str, Any]]:
    path = folder / SHARD_INDEX
    try:
        index = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise ShardError(
            f"{folder} has no {SHARD_INDEX}; give the folder that `curate export-shards` wrote."
        ) from error
    except (OSError, ValueError) as error:
        raise ShardError(f"{path} cannot be read as JSON; {SAME_EXPORT}.") from error
    if not isinstance(index, dict) or index.get("format") != INDEX_FORMAT:
        raise ShardError(f"{path} is not an index of format {INDEX_FORMAT}; {SAME_EXPORT}.")
    return list(index["shards"])


def _check_file(path: Path, entry: dict[str, Any], *, verify: bool) -> None:
    if not path.is_file():
        raise ShardError(f"{path} is missing, but {SHARD_INDEX} lists it; {SAME_EXPORT}.")
    size_bytes = path.stat().st_size
    if size_bytes != entry["bytes"]:
        raise ShardError(f"{path} has {size_bytes} bytes, {SHARD_INDEX} says {entry['bytes']}; {SAME_EXPORT}.")
    if not verify:
        return
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 != entry["sha256"]:
        raise ShardError(f"{path} is not the file that {SHARD_INDEX} describes: its sha256 differs; {SAME_EXPORT}.")


def _samples(path: Path) -> Iterator[tuple[str, dict[str, ImageLocation]]]:
    """Each key of a tar with its members, in order; members of one sample stand together."""
    key, members = "", dict[str, ImageLocation]()
    try:
        with tarfile.open(path, "r:") as tar:
            for info in tar:
                next_key, _, member = info.name.partition(".")
                if members and next_key != key:
                    yield key, members
                    members = {}
                key = next_key
                members[member] = ImageLocation(path, info.name, info.offset_data, info.size)
    except tarfile.TarError as error:
        raise ShardError(f"{path} is not a whole tar file ({error}); {SAME_EXPORT}.") from error
    if members:
        yield key, members


def _checked(path: Path, key: str, members: dict[str, ImageLocation]) -> tuple[str, HashedImage, HashedImage]:
    """Prompt and both sides, each image with its sha256."""
    found = {name.partition(".")[0]: location for name, location in members.items()}
    for name in (PREFERRED, REJECTED, PROMPT, META):
        if name not in found:
            raise ShardError(f"Sample {key} of {path} has no member `{name}`; {SAME_EXPORT}.")
    try:
        meta = json.loads(found[META].read())
        hashes = [meta[side]["sha256"] for side in (PREFERRED, REJECTED)]
        prompt = found[PROMPT].read().decode("utf-8")
    except (ValueError, KeyError, TypeError) as error:
        raise ShardError(f"Sample {key} of {path} has a broken `{META}` or `{PROMPT}`; {SAME_EXPORT}.") from error
    return prompt, (hashes[0], found[PREFERRED]), (hashes[1], found[REJECTED])
