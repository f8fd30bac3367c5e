"""`curate embed`: the source's pairs, unique images and prompts, scored once, in parts that survive a kill."""

import itertools
from collections import Counter
from importlib.metadata import version
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from curate.engines.local import batched
from curate.errors import RunError, SourceError
from curate.live import live, write_progress
from curate.pipeline import EmbedOptions, compute_parts
from curate.plan import Plan, make_plan
from curate.progress import Advance, progress, say
from curate.run import Run, part_rows, write_part
from curate.scoring import EmbeddedPrompts, Scoring, embedding_columns, embedding_matrix
from curate.source import Source
from curate.tables import write_table
from curate.tally import Tally
from schemas import tables
from schemas.reasons import IMAGE_REASONS

PROMPTS_PER_PART = 4096
PACKAGES = ("torch", "open_clip_torch", "transformers", "pillow", "pyarrow")


def embed(run: Run, source: Source, scoring: Scoring, options: EmbedOptions) -> dict[str, Any]:
    """Write every table of the run and return the counts; sound parts of an earlier attempt are kept.

    Raises: RunError when the directory holds tables made under other settings; SourceError; WriteError.
    """
    plan = make_plan(source, options.part_images)
    with run.locked():
        return _embed(run, source, plan, scoring, options)


def source_settings(source: Source, options: EmbedOptions) -> dict[str, Any]:
    """The settings that are known before any weights are loaded."""
    return {
        "manifest": source.manifest.settings(),
        "split": source.split,
        "files": source.sizes(),
        "device": options.device.split(":")[0],
        "precision": options.precision,
        "decode": options.decode,
        "compiled": options.compiled,
        "part_images": options.part_images,
    }


def _embed(run: Run, source: Source, plan: Plan, scoring: Scoring, options: EmbedOptions) -> dict[str, Any]:
    # Equal settings give equal tables: this is everything that decides a table's content.
    settings = source_settings(source, options) | {"models": scoring.identity}
    info = {"models": scoring.models, "packages": {name: version(name) for name in PACKAGES}}
    continued = run.claim(settings, info)
    if continued:
        say(f"{run.root} holds parts of this run; the sound ones are kept")
    if source.expected_rows not in (None, plan.source_rows):
        say(f"note: the manifest expects {source.expected_rows:,} rows, the files hold {plan.source_rows:,}")
    write_table(plan.pairs, run.pairs, tables.PAIRS)
    write_table(plan.dropped, run.table("dropped") / "plan.parquet", tables.DROPPED)
    there = {part.index: part_rows(run, part.name) for part in plan.parts}
    todo = [part for part in plan.parts if there[part.index] is None]
    shown = shown_settings(source, scoring, options)
    tally = _tally(plan, there)
    if todo:
        write_progress(run.root, "running", shown, tally)
    prompt_embeddings = _embed_prompts(run, plan, scoring)
    if todo:
        tally.restart()
        with live(run.root, tally, shown) as report:
            compute_parts(run, source, scoring, prompt_embeddings, todo, options, report)
    summary = _summary(run, plan, source, scoring) | {"parts_computed": len(todo), "parts": len(plan.parts)}
    summary["computed"] = _computed(tally, shown) if todo else _computed_before(run)
    run.mark_finished(summary)
    return summary


def shown_settings(source: Source, scoring: Scoring, options: EmbedOptions) -> dict[str, Any]:
    """What `curate status` and embed.json say of how a run is computed."""
    return {
        "dataset": source.manifest.name,
        "split": source.split,
        "models": scoring.models,
        "scorers": ", ".join(scoring.heads),
        "device": options.device,
        "precision": options.precision,
        "batch": options.batch_images or "auto",
        "part_images": options.part_images,
        "decode_processes": options.decode_processes,
        "decode": options.decode,
        "compiled": options.compiled,
    }


def _tally(plan: Plan, there: dict[int, dict[str, int] | None]) -> Tally:
    """Nothing done yet, beside the parts that are there: their rows of each table, by index."""
    stands = [part for part in plan.parts if there[part.index] is not None]
    scored = any((there[part.index] or {}).get("images") for part in stands)
    return Tally(plan.image_count, len(plan.parts), sum(len(part.images) for part in stands), len(stands), scored)


def _computed(tally: Tally, settings: dict[str, Any]) -> dict[str, Any]:
    """How this process came to its parts; embed.json's other counts are those of the whole run."""
    numbers = tally.numbers()
    kept = ("elapsed_sec", "images_per_sec", "busy_share", "dropped", "devices")
    return {"images": tally.done_images} | {name: numbers[name] for name in kept} | settings


def _computed_before(run: Run) -> dict[str, Any]:
    """With nothing left to compute, what is known of an earlier process stays."""
    try:
        return dict(run.summary().get("computed", {}))
    except RunError:
        return {}


def _embed_prompts(run: Run, plan: Plan, scoring: Scoring) -> EmbeddedPrompts:
    """Computed in parts, read back from the sound ones."""
    schema = tables.with_embeddings(tables.PROMPTS, scoring.dimensions, pa.float32())
    parts: list[pa.Table] = []
    with progress("prompts", len(plan.prompts)) as advance:
        for index, chunk in enumerate(batched(list(plan.prompts.items()), PROMPTS_PER_PART)):
            name = f"prompts-{index:05d}"
            if part_rows(run, name) is None:
                write_part(run, name, {"prompts": (_prompt_table(chunk, scoring, advance), schema)})
            parts.append(pq.read_table(run.table("prompts") / f"{name}.parquet"))
    table = pa.concat_tables(parts)
    embeddings = {
        tower: embedding_matrix(table[tables.embedding_column(tower)], dimension)
        for tower, dimension in scoring.dimensions.items()
    }
    rows = {prompt_id: row for row, prompt_id in enumerate(table["prompt_id"].to_pylist())}
    return EmbeddedPrompts(rows, table["prompt"].to_pylist(), embeddings)


def _prompt_table(chunk: list[tuple[str, str]], scoring: Scoring, advance: Advance, batch: int = 256) -> pa.Table:
    embeddings: dict[str, list[torch.Tensor]] = {tower: [] for tower in scoring.towers}
    for rows in batched(chunk, batch):
        for tower, values in scoring.embed_prompts([prompt for _, prompt in rows]).items():
            embeddings[tower].append(values)
        advance(len(rows))
    columns = {"prompt_id": [key for key, _ in chunk], "prompt": [prompt for _, prompt in chunk]}
    return pa.table(columns | embedding_columns({t: torch.cat(v) for t, v in embeddings.items()}, pa.float32()))


def _summary(run: Run, plan: Plan, source: Source, scoring: Scoring) -> dict[str, Any]:
    """The counts of the run, which must add up: rows = pairs + Σ dropped, images = scored + Σ dropped."""
    dropped_pairs = Counter(plan.dropped["reason"].to_pylist())
    counted = [part_rows(run, part.name) or {} for part in plan.parts]
    reasons = itertools.chain.from_iterable(
        pq.read_table(run.table("dropped") / f"{part.name}.parquet")["reason"].to_pylist() for part in plan.parts
    )
    dropped_images = Counter(reasons)
    scored = sum(rows["images"] for rows in counted)
    if scored + sum(dropped_images.values()) != plan.image_count or not set(dropped_images) <= set(IMAGE_REASONS):
        raise SourceError(f"the counts of {run.root} do not add up; delete it and run `curate embed` again")
    return {
        "dataset": source.manifest.name,
        "split": source.split,
        "source_rows": plan.source_rows,
        "pairs": plan.pairs.num_rows,
        "ties": plan.pairs["preference"].null_count if source.manifest.judged else 0,
        "judged": source.manifest.judged,
        "dropped_pairs": dict(sorted(dropped_pairs.items())),
        "prompts": len(plan.prompts),
        "images": plan.image_count,
        "scored_images": scored,
        "dropped_images": dict(sorted(dropped_images.items())),
        "scored_prompt_images": sum(rows["scores"] for rows in counted),
        "scorers": list(scoring.heads),
    }
