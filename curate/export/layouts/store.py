"""All images of a selection in one file in rank order: filled row group by row group as tars are, read from its start.

So a row group of the source is read once, though ranks lie all over it, and a killed export goes on where it was.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from curate.export.layouts.output import Sample
from curate.export.samples import SIDES, ImageFacts, SelectedPairs, facts_of, key_of, location_of, sample_meta
from curate.export.tars.plan import PLACE, PlannedShard, ShardPlan, as_the_source_lies
from curate.sources.parquet import Location

NAME = "images"
PLACES_TOGETHER = 16_384  # become an array, of a seventh of their size as tuples


def selection_digest(pairs: SelectedPairs, about: dict[str, Any]) -> str:
    """Hex sha256 of which pairs are written, in which order, and of what else decides the files' bytes."""
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for row in pairs.rows():
        digest.update(json.dumps([row["rank"], row["pair_id"], row["prompt"]]).encode())
        digest.update("".join(row[f"{side}_sha256"] for side in SIDES).encode())
    return digest.hexdigest()


def plan_store(pairs: SelectedPairs, new_facts: dict[Location, ImageFacts] | None, digest: str) -> ShardPlan:
    """One file, and every image's place in it. new_facts: of images whose bytes the run's tables do not say."""
    files: dict[str, int] = {}
    arrays, places, end = [np.empty(0, PLACE)], [], 0
    for row in pairs.rows():
        for side in SIDES:
            facts, (file, *rest) = facts_of(row, side, new_facts), location_of(row, side)
            sha256 = bytes.fromhex(facts.sha256)
            places.append((files.setdefault(file, len(files)), *rest, 0, end, facts.size_bytes, sha256))
            end += facts.size_bytes
        if len(places) >= PLACES_TOGETHER:
            arrays.append(np.array(places, PLACE))
            places.clear()
    found = np.concatenate([*arrays, np.array(places, PLACE)])
    store = PlannedShard(NAME, len(found) // 2, end, digest)
    return ShardPlan(shards=[store], files=list(files), places=as_the_source_lies(found, list(files)))


def stored_samples(
    path: Path, pairs: SelectedPairs, new_facts: dict[Location, ImageFacts] | None, encoded: bool
) -> Iterator[Sample]:
    """The pairs, best first, with the bytes of their images."""
    with path.open("rb") as stream:
        for row in pairs.rows():
            facts = tuple(facts_of(row, side, new_facts) for side in SIDES)
            preferred, rejected = (stream.read(one.size_bytes) for one in facts)
            meta = sample_meta(row, facts, pairs.dataset, pairs.scorers, encoded)
            models = row["preferred_model"], row["rejected_model"]
            yield Sample(key_of(row), row["prompt"], preferred, rejected, models, meta)
