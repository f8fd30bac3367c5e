"""The counts of a run, which must add up: rows = pairs + Σ dropped, images = scored + Σ dropped."""

from collections import Counter
from itertools import chain
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from curate.embed.planning.parts import part_name
from curate.embed.planning.plan import Plan
from curate.errors import SourceError
from curate.sources.parquet import Source
from curate.storage.run import PAIRS_FILE, RunFiles
from curate.storage.threads import in_threads
from schemas import tables
from schemas.reasons import IMAGE_REASONS

if TYPE_CHECKING:
    from curate.models.scoring import Scorers

READING_THREADS = 8


def planned_counts(plan: Plan, source: Source) -> dict[str, Any]:
    """What the summary says of the plan: rows = pairs + Σ dropped."""
    counts = plan.counts()
    return {
        "dataset": source.manifest.name,
        "split": source.split,
        "source_rows": plan.source_rows,
        "pairs": plan.pairs.num_rows,
        "ties": plan.pairs["preference"].null_count if source.judged else 0,
        "judged": source.judged,
        "dropped_pairs": counts["dropped_pairs"],
        "prompts": len(plan.prompts),
        "images": plan.image_count,
    }


def run_summary(
    run: RunFiles, plan: Plan, planned: dict[str, Any], scorers: "Scorers", counted: list[dict[str, int]]
) -> dict[str, Any]:
    """The counts must add up: images = scored + Σ dropped."""
    names = [part_name(index) for index in range(len(plan.parts))]
    dropped_images = _dropped_images(run, names)
    scored = sum(rows["images"] for rows in counted)
    if scored + sum(dropped_images.values()) != plan.image_count or not set(dropped_images) <= set(IMAGE_REASONS):
        raise SourceError(f"the counts of {run.folder} do not add up; delete it and run `curate embed` again")
    if dropped_images:
        _check_whole_pairs(run, names, dropped_images)
    return planned | {
        "scored_images": scored,
        "dropped_images": dict(sorted(dropped_images.items())),
        "scored_prompt_images": sum(rows["scores"] for rows in counted),
        "scorers": scorers.names,
        "not_finite": _not_finite(run, names, scorers.names),
    }


def _check_whole_pairs(run: RunFiles, names: list[str], counts: Counter[str]) -> None:
    """Raises: SourceError when every pair has an image that was set aside."""
    dropped = pa.concat_tables(
        run.folder.read_table(f"dropped/{name}.parquet", ["image_uid", "detail"]) for name in names
    )
    pairs = run.folder.read_table(PAIRS_FILE, ["image_0_uid", "image_1_uid"])
    lost = pc.or_(*(pc.is_in(column, dropped["image_uid"].combine_chunks()) for column in pairs.itercolumns()))
    if pc.all(lost).as_py():
        words = ", ".join(f"{count:,} {reason}" for reason, count in sorted(counts.items()))
        raise SourceError(
            f"not one of the {len(lost):,} pairs has both of its pictures: {words}; such as {dropped['detail'][0]}; "
            "correct --images, --source or the manifest, or bring the pictures, and run again"
        )


def _dropped_images(run: RunFiles, names: list[str]) -> Counter[str]:
    """Images of these parts that were set aside, by reason."""

    def reasons(name: str) -> list[str]:
        return run.folder.read_table(f"dropped/{name}.parquet", ["reason"])["reason"].to_pylist()

    return Counter(chain.from_iterable(in_threads(reasons, names, _reading_threads(run))))


def _not_finite(run: RunFiles, names: list[str], scorers: list[str]) -> dict[str, int]:
    """Of each scorer that gave any, how many scores are no finite number: ranking and comparing take them as missing.

    Towers are held to finite numbers; a scorer's own arithmetic, or a plug-in's, may still lose them.
    """
    columns = [tables.score_column(name) for name in scorers]

    def bad(name: str) -> list[int]:
        table = run.folder.read_table(f"scores/{name}.parquet", columns)
        return [len(column) - (pc.sum(pc.is_finite(column)).as_py() or 0) for column in table.itercolumns()]

    counts: Counter[str] = Counter()
    for found in in_threads(bad, names, _reading_threads(run)):
        counts.update(dict(zip(scorers, found, strict=True)))
    return {name: count for name, count in counts.items() if count}


def _reading_threads(run: RunFiles) -> int:
    return READING_THREADS if run.folder.remote else 1
