"""Every shard laid out before an image is read: what its tar holds, and the place of each image in it."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.errors import UsageError
from curate.export.order import SplitShare, in_split, split_of
from curate.export.samples import SIDES, ImageFacts, Row, SelectedPairs, facts_of, key_of, location_of, sample_meta
from curate.export.tars.layout import TarLayout
from curate.sources.parquet import Location
from schemas import shards

_BYTES = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(?:([kmg])(i?))?b?", re.IGNORECASE)

# One image in one tar: where it comes from, where it goes, and what it must be. 69 bytes.
PLACE = np.dtype(
    [
        *(("file", "i4"), ("row_group", "i4"), ("row", "i8"), ("side", "i1")),
        *(("shard", "i4"), ("offset", "i8"), ("size", "i8"), ("sha256", "V32")),
    ]
)


@dataclass(frozen=True)
class ShardSize:
    """When a shard is full: at so many samples, or before it would exceed so many bytes (one sample always fits)."""

    pairs: int = 1000
    size_bytes: int | None = None


def parse_bytes(text: str) -> int:
    """`500MB`, `1.5GiB` or a plain number as bytes. Raises UsageError."""
    found = _BYTES.fullmatch(text.strip())
    number, letter, binary = found.groups(default="") if found else ("0", "", "")
    size = int(float(number) * (1024 if binary else 1000) ** " kmg".index(letter.lower() or " "))
    if size < 1:
        raise UsageError(f"--shard-bytes {text}: write a number with KB, MB, GB, KiB, MiB or GiB, such as 500MB")
    return size


@dataclass(frozen=True)
class PlannedShard:
    """One tar. `layout_sha256` is of everything but the images' bytes, whose sha256 it contains."""

    name: str  # below the output folder
    samples: int
    size_bytes: int
    layout_sha256: str


@dataclass
class ShardPlan:
    """All shards, in order, and every image's place, sorted as the source lies. `places`: of PLACE."""

    shards: list[PlannedShard] = field(default_factory=list)
    prompts: dict[str, int] = field(default_factory=dict)  # split -> unique ones
    files: list[str] = field(default_factory=list)
    places: NDArray[np.void] = field(default_factory=lambda: np.empty(0, PLACE))

    def of_split(self, split: str) -> list[PlannedShard]:
        """The shards of one split; "" where there are none."""
        return [shard for shard in self.shards if shard.name.rpartition("/")[0] == split]

    def locations(self, places: NDArray[np.void]) -> Iterator[tuple[Location, NDArray[np.void]]]:
        """Each image with its places, of places that are sorted."""
        keys = places[["file", "row_group", "row", "side"]]
        starts = starts_of(keys)
        for start, end in zip(starts, [*starts[1:], len(places)], strict=True):
            file, row_group, row, side = keys[start].item()
            yield Location(self.files[file], row_group, row, side), places[start:end]


def starts_of(keys: NDArray[np.void]) -> NDArray[np.intp]:
    """Where a key begins that is not the one before it."""
    return np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])) if len(keys) else np.empty(0, np.intp)


# Called with each shard as it is laid out and its tar without the images; False: it stands already.
Keep = Callable[[PlannedShard, TarLayout], bool]


def plan_shards(
    pairs: SelectedPairs,
    size: ShardSize,
    shares: tuple[SplitShare, ...],
    extension: str,
    new_facts: dict[Location, ImageFacts] | None,
    encoded: bool,
    begin: Keep,
) -> ShardPlan:
    """Lay out the samples in their order, shard by shard; only the images' places stay in memory.

    new_facts: of the images as they will be written, where the run's tables do not say it.
    """
    plan = ShardPlan(prompts={share.name: 0 for share in shares} or {"": 0})
    open_shards = {split: _OpenShard(split) for split in plan.prompts}
    prompts: dict[str, set[str]] = {split: set() for split in plan.prompts}
    files: dict[str, int] = {}
    places: list[NDArray[np.void]] = []

    def finish(shard: "_OpenShard") -> None:
        layout_sha256 = shard.layout.close()
        planned = PlannedShard(shard.name, shard.samples, shard.layout.size_bytes, layout_sha256)
        if begin(planned, shard.layout):
            found = np.array(shard.places, PLACE)
            found["shard"] = len(plan.shards)
            places.append(found)
        plan.shards.append(planned)

    for row in pairs.rows():
        split = split_of(row["prompt"], shares)
        prompts[split].add(row["prompt_id"])
        facts = tuple(facts_of(row, side, new_facts) for side in SIDES)
        text = json.dumps(sample_meta(row, facts, pairs.dataset, pairs.scorers, encoded), ensure_ascii=False)
        meta = text.encode("utf-8")
        prompt = row["prompt"].encode("utf-8")
        shard = open_shards[split]
        if shard.full(size, [len(meta), *(one.size_bytes for one in facts), len(prompt)]):
            finish(shard)
            shard = open_shards[split] = shard.following()
        shard.add(row, meta, facts, prompt, extension, files)
    for shard in open_shards.values():
        if shard.samples:
            finish(shard)
    plan.prompts = {split: len(found) for split, found in prompts.items()}
    plan.files = list(files)
    plan.places = as_the_source_lies(np.concatenate(places) if places else np.empty(0, PLACE), plan.files)
    return plan


class _OpenShard:
    """A shard that samples are being added to."""

    def __init__(self, split: str, number: int = 0) -> None:
        self.split, self.number, self.samples = split, number, 0
        self.layout = TarLayout()
        self.places: list[tuple[Any, ...]] = []

    @property
    def name(self) -> str:
        return in_split(self.split, shards.SHARD_NAME.format(index=self.number))

    def following(self) -> "_OpenShard":
        return _OpenShard(self.split, self.number + 1)

    def full(self, size: ShardSize, next_bytes: list[int]) -> bool:
        """Whether the next sample, with members of these sizes, belongs into the next shard."""
        if not self.samples:
            return False
        too_long = size.size_bytes is not None and self.layout.size_after(next_bytes) > size.size_bytes
        return self.samples >= size.pairs or too_long

    def add(
        self,
        row: Row,
        meta: bytes,
        facts: tuple[ImageFacts, ...],
        prompt: bytes,
        extension: str,
        files: dict[str, int],
    ) -> None:
        key = key_of(row)
        self.layout.add(f"{key}.{shards.META}", meta)
        for side, one in zip(SIDES, facts, strict=True):
            offset = self.layout.add_image(f"{key}.{side}.{extension}", one.size_bytes)
            file, *rest = location_of(row, side)
            sha256 = bytes.fromhex(one.sha256)
            self.places.append((files.setdefault(file, len(files)), *rest, 0, offset, one.size_bytes, sha256))
        self.layout.add(f"{key}.{shards.PROMPT}", prompt)
        self.samples += 1


def as_the_source_lies(places: NDArray[np.void], files: list[str]) -> NDArray[np.void]:
    """Places by file's name, row group, row, side."""
    by_name = np.argsort(np.argsort(np.array(files, dtype=object))) if files else np.empty(0, int)
    position = by_name[places["file"]] if len(places) else places["file"]
    return places[np.lexsort((places["side"], places["row"], places["row_group"], position))]
