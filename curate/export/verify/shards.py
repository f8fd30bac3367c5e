"""Shards against their index, their samples' own words, and the ranking that they came from."""

import hashlib
import json
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, Any

import fsspec

from curate.database.connection import connect_views
from curate.database.queries import query_text
from curate.embed.planning.plan import stable_id
from curate.errors import CurateError
from curate.export.order import in_split
from curate.rank.rankings import ranking_settings
from curate.sources.images import Rejected, decode
from curate.storage.files import retrying
from curate.storage.run import Run
from curate.storage.threads import in_threads
from curate.terminal.progress import Advance
from schemas import shards

Fault = dict[str, str]
SIDES = (shards.PREFERRED, shards.REJECTED)
Members = dict[str, bytes]
COMPARED = ("rank", "quality", "prompt", *(f"{side} image" for side in SIDES), *(f"{side} sha256" for side in SIDES))
MEMBERS = (shards.META, shards.PREFERRED, shards.REJECTED, shards.PROMPT)


@dataclass
class Findings:
    """What was looked at and what is wrong. Faults are {"where", "what"}; counts are by what was checked."""

    faults: list[Fault] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def fault(self, where: str, what: str) -> None:
        self.faults.append({"where": where, "what": what})

    def count(self, what: str, units: int = 1) -> None:
        self.counts[what] = self.counts.get(what, 0) + units

    def joined(self, other: "Findings", folder: str) -> "Findings":
        """These and those of a folder below."""
        faults = [{"where": folder + fault["where"], "what": fault["what"]} for fault in other.faults]
        return Findings(self.faults + faults, self.counts | other.counts, self.notes + other.notes)


class ShardReader:
    """A folder of shards by path or URL, read only."""

    def __init__(self, path: str) -> None:
        self.path = path.rstrip("/")
        self.filesystem, self.root = fsspec.core.url_to_fs(self.path)
        with suppress(Exception):  # a listing from before may be stale; not every file system keeps any
            self.filesystem.invalidate_cache()

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""
        return bool(self.filesystem.isfile(f"{self.root}/{name}"))

    def json(self, name: str, findings: Findings) -> dict[str, Any] | None:
        """An index's content; None, and a fault, when it cannot be read."""
        try:
            data = retrying(lambda: self.filesystem.cat_file(f"{self.root}/{name}"), f"{self.path}/{name}")
            found = json.loads(data)
            if not isinstance(found, dict):
                raise ValueError("no JSON object")
            return found
        except (OSError, ValueError) as error:
            findings.fault(name, f"cannot be read: {error}")
            return None

    def tars(self, split: str) -> set[str]:
        """Names of the tars of a split."""
        found = self.filesystem.glob(f"{self.root}/{in_split(split, '*.tar')}")
        return {name.rpartition("/")[2] for name in found}

    def splits(self) -> set[str]:
        """Names of the folders below that hold an index."""
        found = self.filesystem.glob(f"{self.root}/*/{shards.SHARD_INDEX}")
        return {name.rsplit("/", 2)[1] for name in found}

    def sha256(self, name: str) -> str | None:
        """Of a small file's bytes; None when it cannot be read."""
        try:
            return hashlib.sha256(self.filesystem.cat_file(f"{self.root}/{name}")).hexdigest()
        except OSError:
            return None

    def size(self, name: str) -> int:
        """Bytes of a file."""
        return int(self.filesystem.size(f"{self.root}/{name}"))

    def open(self, name: str) -> IO[bytes]:
        """A file to read from its start to its end."""
        return self.filesystem.open(f"{self.root}/{name}", "rb")


def is_shard_folder(folder: ShardReader) -> bool:
    """Whether an export wrote here, finished or not."""
    return any(folder.exists(name) for name in (shards.SHARD_INDEX, shards.SPLIT_INDEX, shards.UNFINISHED_INDEX))


def planned_pairs(folder: ShardReader) -> int:
    """How many samples there are to look at, by the indices that can be read."""
    indices = [index for _, index in _indices(folder, Findings())]
    return sum(index["pairs"] for index in indices if isinstance(index.get("pairs"), int))


def verify_shards(folder: ShardReader, run: Run | None, threads: int, advance: Advance) -> Findings:
    """Every hash, count, member, image and prompt. run: compare with its ranking; None: with the samples alone."""
    findings = Findings()
    if folder.exists(shards.UNFINISHED_INDEX):
        findings.fault(shards.UNFINISHED_INDEX, "the export was not finished; run `curate export-shards` again")
    indices = _indices(folder, findings)
    ranking = _Ranking(run, indices, findings)
    prompts: dict[str, str] = {}  # of all splits: prompt_id -> the split that has it
    for split, index in indices:
        _verify_split(folder, split, index, ranking, prompts, findings, threads, advance)
    ranking.close(findings)
    return findings


def _indices(folder: ShardReader, findings: Findings) -> list[tuple[str, dict[str, Any]]]:
    names = [""]
    if folder.exists(shards.SPLIT_INDEX):
        names = _split_names(folder, findings)
    elif not folder.exists(shards.SHARD_INDEX):
        return []
    found = [(name, folder.json(in_split(name, shards.SHARD_INDEX), findings)) for name in names]
    return [(name, index) for name, index in found if index is not None]


def _split_names(folder: ShardReader, findings: Findings) -> list[str]:
    """The splits that splits.json states, each held against its own index; one that it does not state is a fault."""
    stated = (folder.json(shards.SPLIT_INDEX, findings) or {}).get("splits", [])
    splits = [one for one in stated if isinstance(one, dict) and isinstance(one.get("name"), str)]
    if not isinstance(stated, list) or len(splits) < len(stated):
        findings.fault(shards.SPLIT_INDEX, "its splits are no list of names and counts")
    for one in splits:
        name = in_split(one["name"], shards.SHARD_INDEX)
        index = folder.json(name, Findings()) or {}
        for what in ("pairs", "prompts"):
            if one.get(what) != index.get(what):
                findings.fault(name, f"says {index.get(what)!r} {what}, {shards.SPLIT_INDEX} says {one.get(what)!r}")
        if one.get("index_sha256") != folder.sha256(name):
            findings.fault(name, f"its sha256 is not that of {shards.SPLIT_INDEX}")
    for extra in sorted(folder.splits() - {one["name"] for one in splits}):
        findings.fault(extra, f"is a split that {shards.SPLIT_INDEX} does not name")
    return [one["name"] for one in splits]


def _verify_split(
    folder: ShardReader,
    split: str,
    index: dict[str, Any],
    ranking: "_Ranking",
    prompts: dict[str, str],
    findings: Findings,
    threads: int,
    advance: Advance,
) -> None:
    where = in_split(split, shards.SHARD_INDEX)
    if index.get("format") != shards.INDEX_FORMAT or not isinstance(index.get("shards"), list):
        findings.fault(where, f"is not an index of format {shards.INDEX_FORMAT}")
        return
    entries = [entry for entry in index["shards"] if _is_entry(entry)]
    if len(entries) < len(index["shards"]):
        findings.fault(
            where, f"{len(index['shards']) - len(entries):,} of its entries lack file, samples, bytes or sha256"
        )
    listed = {entry["file"] for entry in entries}
    for extra in sorted(folder.tars(split) - listed):
        findings.fault(in_split(split, extra), f"is not in {shards.SHARD_INDEX}")
    pairs, own = 0, set[str]()
    for entry in entries:
        name = in_split(split, entry["file"])
        samples = 0
        for key, problems, row in _samples(folder, name, entry, findings, threads):
            samples += 1
            advance(1)
            for what in problems:
                findings.fault(f"{name}: {key}", what)
            if row is not None:
                own.add(row["prompt_id"])
                if prompts.setdefault(row["prompt_id"], split) != split:
                    findings.fault(f"{name}: {key}", f"its prompt is in the split '{prompts[row['prompt_id']]}', too")
                ranking.compare(f"{name}: {key}", row, findings)
        if samples != entry["samples"]:
            findings.fault(name, f"holds {samples:,} samples, {where} says {entry['samples']:,}")
        pairs += samples
    for what, count in (("pairs", pairs), ("prompts", len(own))):
        if index.get(what, count) != count:
            findings.fault(where, f"says {index[what]!r} {what}, the tars hold {count:,}")


def _is_entry(entry: Any) -> bool:
    kinds = {"file": str, "samples": int, "bytes": int, "sha256": str}
    return isinstance(entry, dict) and all(isinstance(entry.get(key), kind) for key, kind in kinds.items())


def _samples(
    folder: ShardReader, name: str, entry: dict[str, Any], findings: Findings, threads: int
) -> Iterator[tuple[str, list[str], dict[str, Any] | None]]:
    """Each sample of a tar: its key, what is wrong with it, its json. The tar is read once, hashed on the way."""
    if not folder.exists(name):
        findings.fault(name, "is missing")
        return
    if folder.size(name) != entry["bytes"]:
        findings.fault(name, f"has {folder.size(name):,} bytes, the index says {entry['bytes']:,}")
    findings.count("shards")
    with folder.open(name) as raw:
        stream = _Hashed(raw)
        try:
            for key, problems, row in in_threads(_checked, _grouped(stream), threads):
                findings.count("samples")
                findings.count("images", 2)
                yield key, problems, row
        except (tarfile.TarError, EOFError) as error:
            findings.fault(name, f"is not a whole tar: {error}")
        while stream.read(1 << 20):
            pass
    if stream.digest.hexdigest() != entry["sha256"]:
        findings.fault(name, "its sha256 is not that of the index")


class _Hashed:
    """A stream whose bytes are hashed as they are read."""

    def __init__(self, raw: IO[bytes]) -> None:
        self.raw, self.digest = raw, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self.raw.read(size)
        self.digest.update(data)
        return data


def _grouped(stream: _Hashed) -> Iterator[tuple[str, Members, list[str]]]:
    """Consecutive members of one key, by the part of the name behind it."""
    key, members, names = "", Members(), list[str]()
    with tarfile.open(fileobj=stream, mode="r|") as tar:  # type: ignore[call-overload]
        for info in tar:
            next_key, _, member = info.name.partition(".")
            if names and next_key != key:
                yield key, members, names
                members, names = {}, []
            key = next_key
            extracted = tar.extractfile(info)
            members[member.partition(".")[0]] = b"" if extracted is None else extracted.read()
            names.append(member)
    if names:
        yield key, members, names


def _checked(sample: tuple[str, Members, list[str]]) -> tuple[str, list[str], dict[str, Any] | None]:
    key, members, names = sample
    if tuple(name.partition(".")[0] for name in names) != MEMBERS:
        return key, [f"its members are {', '.join(names)}; they should be {', '.join(MEMBERS)}"], None
    try:
        meta = json.loads(members[shards.META])
        prompt = members[shards.PROMPT].decode("utf-8")
        problems = [*_wrong_words(key, meta, prompt)]
        problems += [f"{side}: {what}" for side in SIDES for what in _wrong_image(members[side], meta[side])]
        whole = all(name in meta for name in shards.JSON_FIELDS)
        return key, problems, meta | {"prompt": prompt} if whole else None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return key, [f"its json or txt cannot be read: {type(error).__name__}: {error}"], None


def _wrong_words(key: str, meta: dict[str, Any], prompt: str) -> Iterator[str]:
    if missing := [name for name in shards.JSON_FIELDS if name not in meta]:
        yield f"its json lacks {', '.join(missing)}"
    if key != f"{meta['rank']:0{shards.KEY_DIGITS}d}":
        yield f"its key is not its rank, {meta['rank']}"
    if stable_id(prompt) != meta["prompt_id"]:
        yield f"its prompt is not that of prompt_id {meta['prompt_id']}"


def _wrong_image(data: bytes, meta: dict[str, Any]) -> Iterator[str]:
    if hashlib.sha256(data).hexdigest() != meta["sha256"]:
        yield "its sha256 is not that of the json"
    decoded = decode(data)
    if isinstance(decoded, Rejected):
        yield f"it does not decode: {decoded.detail}"
        return
    found = {"format": decoded.format, "width": decoded.image.width, "height": decoded.image.height}
    for key, value in found.items():
        if meta[key] != value:
            yield f"its {key} is {value}, the json says {meta[key]}"


class _Ranking:
    """The selected pairs of the ranking that the shards name, each to be met once."""

    def __init__(self, run: Run | None, indices: list[tuple[str, dict[str, Any]]], findings: Findings) -> None:
        self.rows: dict[str, tuple[Any, ...]] | None = None
        self._met: set[str] = set()
        if not indices:
            return
        if run is None:
            findings.notes.append("no run directory: prompts are compared with their ids, not with the ranking")
            return
        name = str(indices[0][1].get("ranking", {}).get("name"))
        try:
            self.rows = _selected(run, name)
        except CurateError as error:
            findings.fault(f"ranking '{name}'", str(error))

    def compare(self, where: str, row: dict[str, Any], findings: Findings) -> None:
        """A sample's words against the ranking's."""
        pair_id = row["pair_id"]
        if pair_id in self._met:
            findings.fault(where, f"the pair {pair_id} is there twice")
        self._met.add(pair_id)
        if self.rows is None:
            return
        if pair_id not in self.rows:
            findings.fault(where, f"the ranking does not select the pair {pair_id}")
            return
        findings.count("compared with the ranking")
        found = (row["rank"], row["quality"], row["prompt"], *(row[side]["image_uid"] for side in SIDES))
        found += tuple(row[side].get("source_sha256", row[side]["sha256"]) for side in SIDES)
        for word, there, ours in zip(COMPARED, found, self.rows[pair_id], strict=True):
            if there != ours:
                findings.fault(where, f"its {word} is {there!r}, the ranking says {ours!r}")

    def close(self, findings: Findings) -> None:
        """Pairs that no shard holds."""
        if self.rows is not None and (missing := self.rows.keys() - self._met):
            what = f"{len(missing):,} selected pairs of the ranking are in no shard, such as {min(missing)}"
            findings.fault(shards.SHARD_INDEX, what)


def _selected(run: Run, name: str) -> dict[str, tuple[Any, ...]]:
    ranking_settings(run, name)  # says which rankings there are
    connection = connect_views(run)
    query = query_text("export/verified_samples").replace("from ranking\n", f'from "ranking_{name}" as ranking\n')
    return {row[0]: row[1:] for row in connection.execute(query).fetchall()}
