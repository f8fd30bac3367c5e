"""What lies beside the tars: an index of each split, an index of the splits, and the mark of an unfinished export."""

import hashlib
import json
from threading import Lock
from typing import Any

from curate.errors import RunError
from curate.export.card import MARK
from curate.export.destination import Destination
from curate.export.order import SplitShare, in_split
from curate.export.samples import SelectedPairs
from schemas import shards

Entry = dict[str, Any]
RANKING_KEYS = ("name", "metric", "psi", "psi_norm", "top", "base_pairs", "selected_pairs")


class ShardFolder:
    """The output of an export, and which tars of it stand. `entries`: name -> its entry in an index."""

    def __init__(self, destination: Destination) -> None:
        self.destination = destination
        self.earlier = _earlier_entries(destination)
        self.entries: dict[str, Entry] = {}
        self.kept = 0
        self._contents: dict[str, str] = {}
        self._lock = Lock()

    def stands(self, name: str, content_sha256: str) -> bool:
        """Whether an earlier export left this very tar, sound; then it is taken over."""
        self._contents[name] = content_sha256
        if name in self.entries:
            return True
        entry = self.earlier.get(name)
        if entry is None or entry.get("layout_sha256") != content_sha256 or not self.destination.holds(name, entry):
            return False
        self.entries[name] = entry
        self.kept += 1
        return True

    def mark_unfinished(self) -> None:
        """From here on the folder is visibly unfinished, until `write`."""
        self._note()
        for split in {"", *(name.rpartition("/")[0] for name in self.earlier)}:
            self.destination.remove(in_split(split, shards.SHARD_INDEX))
        self.destination.remove(shards.SPLIT_INDEX)

    def publish(self, name: str, samples: int, size_bytes: int, sha256: str) -> None:
        """Give a tar its final name; its entry is noted before, so that no kill leaves a tar that nothing names."""
        with self._lock:
            if self.destination.remote and name in self.earlier:
                self.destination.remove(name)  # by its size alone it could pass for the new one
            entry = {"file": name.rpartition("/")[2], "samples": samples, "bytes": size_bytes, "sha256": sha256}
            self.entries[name] = entry | {"layout_sha256": self._contents[name]}
            self._note()
        self.destination.publish(name)

    def _note(self) -> None:
        listed = [{"name": name, **entry} for name, entry in (self.earlier | self.entries).items()]
        self.destination.write_text(shards.UNFINISHED_INDEX, json.dumps({"shards": listed}) + "\n")

    def write(self, indices: dict[str, dict[str, Any]], shares: tuple[SplitShare, ...]) -> None:
        """Remove tars that an earlier export left and this one does not name; then the indices, by split."""
        for name in self.earlier.keys() - self.entries.keys():
            self.destination.remove(name)
        for split in {name.rpartition("/")[0] for name in self.earlier} - indices.keys() - {""}:
            if MARK in (self.destination.read_text(in_split(split, shards.CARD)) or ""):
                self.destination.remove(in_split(split, shards.CARD))
        splits = []
        for split, index in indices.items():
            text = json.dumps(index, indent=2) + "\n"
            self.destination.write_text(in_split(split, shards.SHARD_INDEX), text)
            counts = {key: index[key] for key in ("pairs", "prompts")}
            splits.append((index["split"] or {}) | counts | {"index_sha256": hashlib.sha256(text.encode()).hexdigest()})
        if shares:
            text = json.dumps({"format": shards.SPLIT_INDEX_FORMAT, "splits": splits}, indent=2) + "\n"
            self.destination.write_text(shards.SPLIT_INDEX, text)
        self.destination.remove(shards.UNFINISHED_INDEX)


def split_indices(
    prompts: dict[str, int], entries: dict[str, Entry], shares: tuple[SplitShare, ...], about: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """The content of each split's shards.json, by the split's name.

    prompts: unique ones of each split. entries: by the tar's name. about: what all of them say alike.
    """
    share_of = {share.name: {"name": share.name, "share": share.fraction} for share in shares}
    indices = {}
    for split, count in prompts.items():
        own = [entry for name, entry in sorted(entries.items()) if name.rpartition("/")[0] == split]
        pairs = sum(entry["samples"] for entry in own)
        found = about | {"split": share_of.get(split), "pairs": pairs, "prompts": count, "shards": own}
        indices[split] = {key: found[key] for key in shards.INDEX_FIELDS}
    return indices


def about_export(pairs: SelectedPairs, ranking: dict[str, Any], seed: int | None) -> dict[str, Any]:
    """What every index of an export says alike."""
    return {
        "format": shards.INDEX_FORMAT,
        "dataset": pairs.dataset,
        "ranking": {key: ranking[key] for key in RANKING_KEYS}
        | {"chosen_by": ranking.get("chosen_by", list(ranking["psi"])), "prefer": ranking.get("prefer", "human")},
        "extension": pairs.extension,
        "order": {"by": "rank"} if seed is None else {"by": "shuffle", "seed": seed},
        "encoded": pairs.encoding.stated(),
    }


def _earlier_entries(destination: Destination) -> dict[str, Entry]:
    """Tars that an earlier export into the same folder finished, by name."""
    found: dict[str, Entry] = {}
    splits = _read(destination, shards.SPLIT_INDEX, "splits")
    for split in ["", *(one["name"] for one in splits)]:
        for entry in _read(destination, in_split(split, shards.SHARD_INDEX), "shards"):
            found[in_split(split, entry["file"])] = entry
    for entry in _read(destination, shards.UNFINISHED_INDEX, "shards"):
        found[entry["name"]] = {key: value for key, value in entry.items() if key != "name"}
    return found


def _read(destination: Destination, name: str, key: str) -> list[Entry]:
    text = destination.read_text(name)
    if text is None:
        return []
    try:
        entries = json.loads(text)[key]
        needed = ("name",) if key == "splits" else ("file", "bytes", "sha256")
        return [{**entry, **{word: entry[word] for word in needed}} for entry in entries]
    except (ValueError, KeyError, TypeError) as error:
        where = f"{destination.output}/{name}"
        raise RunError(f"{where} is damaged ({error}); delete {destination.output} and export again") from error
