"""Shards to pairs: each tar checked against shards.json, each sample against schemas/shards.py.

Images are not read here, only located: a tar is walked once, and `ImageLocation.read` fetches the bytes
of one image from its offset.
"""

import hashlib
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.shards import INDEX_FORMAT, META, PREFERRED, PROMPT, REJECTED, SHARD_INDEX
from train.errors import ShardError

EXPORT_AGAIN = "copy the shards again, or export them anew with `curate export-shards`"
DECIDED: dict[str, tuple[float, ...]] = {  # how a judgement is written in tables and at the source: no tie, no null
    "preference": (0, 1),
    "label_0": (0, 1),
    "label_1": (0, 1),
    "has_label": (1,),
}


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


SizePx = tuple[int, int]  # width, height
ShapePx = tuple[int, int]  # height, width


class Side(NamedTuple):
    """One image of a sample: the sha256 of its bytes, where they are, and its size if the sample gives it."""

    sha256: str
    location: ImageLocation
    size_px: SizePx | None


class Sample(NamedTuple):
    """One sample of a tar, checked. `values`: what its pair is worth, by the names of `PairSet.values`."""

    prompt: str
    preferred: Side
    rejected: Side
    values: dict[str, float]


class Pair(NamedTuple):
    """One preference: indices into `PairSet.prompts` and `PairSet.images`. Ties are refused when shards are read."""

    prompt: int
    preferred: int
    rejected: int


@dataclass(frozen=True)
class PairSet:
    """All pairs of an export, in rank order, with its unique images and prompts and the tars' sha256.

    values: per pair, `quality`, `strength` (share of the votes for the preferred side), and each `<scorer>_margin`,
    preferred less rejected; NaN where a sample has none.
    """

    pairs: list[Pair]
    images: list[ImageLocation]
    prompts: list[str]
    shard_hashes: list[str]
    folder: Path  # of the shards
    values: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    source: dict[str, Any] = field(default_factory=dict)  # what shards.json says of the data set and the ranking
    unequal_sides: list[str] = field(default_factory=list)  # one line for each pair whose sides differ in size
    sizes_px: list[SizePx | None] = field(default_factory=list)  # of each image, where its sample gives it
    hashes: list[str] = field(default_factory=list)  # sha256 of each image's bytes, as its sample gives it
    shapes_px: list[ShapePx] = field(default_factory=list)  # that each image is cut to; empty: all to one square

    def shape_px(self, image: int, resolution_px: int) -> ShapePx:
        """Height and width that an image is cut to."""
        return self.shapes_px[image] if self.shapes_px else (resolution_px, resolution_px)

    def value(self, name: str, setting: str) -> NDArray[np.float64]:
        """The value `name` of every pair. Raises: ShardError when a pair has none, naming `setting`."""
        found = self.values.get(name)
        if found is None:
            known = ", ".join(self.values) or "none"
            raise ShardError(f"{setting} asks for `{name}`, which no sample of the shards has; they have {known}.")
        missing = np.flatnonzero(~np.isfinite(found))
        if missing.size:
            raise ShardError(
                f"{setting} asks for `{name}`, which {missing.size} of {len(found)} pairs lack"
                f" (the first is number {missing[0] + 1} by rank); export again, or take another value."
            )
        return found

    def weights(self, name: str, setting: str) -> NDArray[np.float64]:
        """`value` brought to mean 1. Raises: ShardError when one is negative or all are zero."""
        found = self.value(name, setting)
        if found.min() < 0 or found.max() == 0:
            raise ShardError(
                f"{setting} weighs by `{name}`, which runs from {found.min():.4g} to {found.max():.4g}; weights"
                " must not be negative nor all zero: take a metric that is not, or an offset instead."
            )
        return np.asarray(found / found.mean())

    def smoothings(self, name: str, setting: str) -> NDArray[np.float64]:
        """How probably each pair's label is wrong: 1 - `value`. Raises: ShardError when one is not in 0.5 to 1."""
        found = self.value(name, setting)
        if found.min() < 0.5 or found.max() > 1:
            raise ShardError(
                f"{setting} takes `{name}` for the share that prefers the preferred side, which must lie between 0.5"
                f" and 1; it runs from {found.min():.4g} to {found.max():.4g}: take `strength`."
            )
        return 1 - found

    def counts(self) -> dict[str, int]:
        return {
            "pairs": len(self.pairs),
            "unique_images": len(self.images),
            "unique_prompts": len(self.prompts),
        }


@dataclass
class _Collector:
    """Gives equal images (by sha256) and equal prompts one index each."""

    pairs: list[tuple[str, Pair, dict[str, float]]] = field(default_factory=list)  # key, pair, its values
    images: dict[str, tuple[int, Side]] = field(default_factory=dict)
    prompts: dict[str, int] = field(default_factory=dict)
    unequal_sides: list[str] = field(default_factory=list)

    def add(self, key: str, sample: Sample) -> None:
        prompt_index = self.prompts.setdefault(sample.prompt, len(self.prompts))
        sides = (sample.preferred, sample.rejected)
        images = [self.images.setdefault(side.sha256, (len(self.images), side))[0] for side in sides]
        self.pairs.append((key, Pair(prompt_index, *images), sample.values))
        sizes_px = [side.size_px for side in sides if side.size_px is not None]
        if len(sizes_px) == 2 and sizes_px[0] != sizes_px[1]:
            sizes = " and ".join(f"{width} x {height}" for width, height in sizes_px)
            self.unequal_sides.append(f"{key}, {sizes} px")

    def ranked(self) -> tuple[list[Pair], dict[str, NDArray[np.float64]]]:
        """Pairs and columns of their values by key, which is the rank: an export may be shuffled."""
        ranked = sorted(self.pairs, key=itemgetter(0))
        names = dict.fromkeys(name for _, _, values in ranked for name in values)
        columns = {name: np.array([values.get(name, np.nan) for _, _, values in ranked]) for name in names}
        return [pair for _, pair, _ in ranked], columns


def read_pairs(folder: Path, *, verify: bool = True) -> PairSet:
    """The pairs of a folder of shards; with `verify`, each tar's sha256 is compared with shards.json.

    Raises: ShardError naming the tar and the sample.
    """
    index = _index(folder)
    entries: list[dict[str, Any]] = index["shards"]
    collector = _Collector()
    for entry in entries:
        path = folder / entry["file"]
        check_file(path, entry, verify=verify)
        before = len(collector.pairs)
        for key, members in _samples(path):
            collector.add(key, _checked(path, key, members))
        found = len(collector.pairs) - before
        if found != entry["samples"]:
            raise ShardError(f"{path} holds {found} samples, {SHARD_INDEX} says {entry['samples']}; {EXPORT_AGAIN}.")
    if not collector.pairs:
        raise ShardError(f"{folder} holds no pairs; rank with a larger --top and export again.")
    pairs, values = collector.ranked()
    return PairSet(
        pairs=pairs,
        images=[side.location for _, side in collector.images.values()],
        hashes=[side.sha256 for _, side in collector.images.values()],
        sizes_px=[side.size_px for _, side in collector.images.values()],
        prompts=list(collector.prompts),
        shard_hashes=[entry["sha256"] for entry in entries],
        folder=folder,
        values=values,
        source={name: index[name] for name in ("dataset", "ranking", "pairs") if name in index},
        unequal_sides=collector.unequal_sides,
    )


def _index(folder: Path) -> dict[str, Any]:
    path = folder / SHARD_INDEX
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        split = next((path.parent for path in sorted(folder.glob(f"*/{SHARD_INDEX}"))), None)
        hint = "give the folder that `curate export-shards` wrote"
        hint = f"it holds splits; give the folder of one of them, such as {split}" if split else hint
        raise ShardError(f"{folder} has no {SHARD_INDEX}; {hint}.") from error
    except OSError as error:
        raise ShardError(f"{path} cannot be read ({error.strerror}); {EXPORT_AGAIN}.") from error
    return parsed_index(data, str(path))


def parsed_index(data: bytes, where: str) -> dict[str, Any]:
    """What shards.json says. Raises: ShardError naming `where` when it is none; a tar lies beside it, nowhere else."""
    try:
        index = json.loads(data)
    except ValueError as error:
        raise ShardError(f"{where} cannot be read as JSON; {EXPORT_AGAIN}.") from error
    if not isinstance(index, dict) or index.get("format") != INDEX_FORMAT:
        raise ShardError(f"{where} is not an index of format {INDEX_FORMAT}; {EXPORT_AGAIN}.")
    if outside := [entry["file"] for entry in index["shards"] if Path(entry["file"]).name != entry["file"]]:
        raise ShardError(f"{where} lists `{outside[0]}`, which is no name of a file beside it; {EXPORT_AGAIN}.")
    return index


def check_file(path: Path, entry: dict[str, Any], *, verify: bool) -> None:
    """Raises: ShardError when a tar is not as its `entry` in shards.json says; by its sha256 with `verify`."""
    if not path.is_file():
        raise ShardError(f"{path} is missing, but {SHARD_INDEX} lists it; {EXPORT_AGAIN}.")
    size_bytes = path.stat().st_size
    if size_bytes != entry["bytes"]:
        raise ShardError(f"{path} has {size_bytes} bytes, {SHARD_INDEX} says {entry['bytes']}; {EXPORT_AGAIN}.")
    if not verify:
        return
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 != entry["sha256"]:
        raise ShardError(f"{path} is not the file that {SHARD_INDEX} describes: its sha256 differs; {EXPORT_AGAIN}.")


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
        raise ShardError(f"{path} is not a whole tar file ({error}); {EXPORT_AGAIN}.") from error
    if members:
        yield key, members


def _checked(path: Path, key: str, members: dict[str, ImageLocation]) -> Sample:
    found = {name.partition(".")[0]: location for name, location in members.items()}
    for name in (PREFERRED, REJECTED, PROMPT, META):
        if name not in found:
            raise ShardError(f"Sample {key} of {path} has no member `{name}`; {EXPORT_AGAIN}.")
    try:
        meta = json.loads(found[META].read())
        preferred, rejected = (_side(meta[side], found[side]) for side in (PREFERRED, REJECTED))
        sample = Sample(found[PROMPT].read().decode("utf-8"), preferred, rejected, _values(meta))
    except (ValueError, KeyError, TypeError) as error:
        raise ShardError(f"Sample {key} of {path} has a broken `{META}` or `{PROMPT}`; {EXPORT_AGAIN}.") from error
    if tie := _tie(meta, sample):
        raise ShardError(
            f"Sample {key} of {path} prefers neither side: {tie}; a tie would be trained on as a win: rank and export"
            " again, which sets ties aside."
        )
    return sample


def _tie(meta: dict[str, Any], sample: Sample) -> str | None:
    """What says that a pair was not decided, or None. Our exports hold no such pair; other writers' may."""
    for name in DECIDED:
        if name in meta and not (isinstance(meta[name], int | float) and meta[name] in DECIDED[name]):
            return f"its `{name}` is {json.dumps(meta[name])}"
    return "both are the same image" if sample.preferred.sha256 == sample.rejected.sha256 else None


def _side(meta: dict[str, Any], location: ImageLocation) -> Side:
    size = (meta["width"], meta["height"]) if "width" in meta and "height" in meta else None
    return Side(meta["sha256"], location, size)


def _values(meta: dict[str, Any]) -> dict[str, float]:
    values = {name: float(meta[name]) for name in ("quality", "strength") if meta.get(name) is not None}
    for scorer, sides in (meta.get("scores") or {}).items():
        if None not in (scores := [sides[side] for side in (PREFERRED, REJECTED)]):  # null: it was not finite
            values[f"{scorer}_margin"] = float(scores[0]) - float(scores[1])
    return values
