"""`curate embed`: the source's pairs, unique images and prompts, scored once, in parts that survive a kill."""

import itertools
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from curate.engines import Engine
from curate.engines.serial import Serial
from curate.errors import RunError, SourceError, UsageError
from curate.live import live, write_progress
from curate.parts import part_name
from curate.pipeline import EmbedOptions
from curate.plan import Plan, make_plan
from curate.progress import Advance, progress, say
from curate.run import Run, part_rows, sound_parts
from curate.scoring import Scorers
from curate.source import Source
from curate.tables import write_table
from curate.tally import Done, Tally
from curate.worker import EmbedWork, PromptsDone
from schemas import tables
from schemas.reasons import IMAGE_REASONS


def embed(
    run: Run,
    source: Source,
    scorers: Scorers,
    options: EmbedOptions,
    engine: Engine | None = None,
    part_range: range | None = None,
) -> dict[str, Any]:
    """Write every table of the run and return the counts; sound parts of an earlier attempt are kept.

    part_range: these parts only, beside other processes that do the others; who finds all parts there counts them.
    Raises: RunError when the directory holds tables made under other settings; SourceError; WriteError.
    """
    plan = make_plan(source, options.part_images, options.part_bytes)
    mine = _in_range(len(plan.parts), part_range)
    with run.locked(shared=part_range is not None):
        settings = source_settings(source, options)
        _begin(run, source, plan, settings)
        sound = sound_parts(run, [part_name(index) for index in mine])
        todo = [index for index in mine if part_name(index) not in sound]
        at = Run(run.root.absolute())  # a worker on another machine has another working directory
        work = EmbedWork(at, source, scorers, plan.prompts, options, settings, anew=bool(todo))
        shown, tally = shown_settings(source, scorers, options), _tally(run, plan, mine, todo)
        if todo:
            write_progress(run.root, "running", shown, tally)
        with ExitStack() as lines:
            report = _Shown(lines, run, tally, shown, len(plan.prompts))
            try:
                (engine or Serial(options.device)).run(work, plan.parts.only(todo), report)
            except BaseException as error:
                if todo and report.add is None:  # later failures are written by what shows the images
                    write_progress(run.root, "stopped", shown, tally, error=str(error) or type(error).__name__)
                raise
        return _end(run, plan, source, scorers, _computed(run, tally, shown, len(todo)))


def source_settings(source: Source, options: EmbedOptions) -> dict[str, Any]:
    """The settings that are known before any weights are loaded."""
    return {
        "manifest": source.manifest.settings(),
        "split": source.split,
        "files": source.fingerprints(),
        "device": options.device.split(":")[0],
        "precision": options.precision,
        "decode": options.decode,
        "compiled": options.compiled,
        "part_bytes": options.part_bytes,
        "part_images": options.part_images,
    }


def _in_range(parts: int, part_range: range | None) -> range:
    """Raises: UsageError when the range begins after the last part."""
    if part_range is None:
        return range(parts)
    if part_range.start >= parts:
        raise UsageError(
            f"--part-range {part_range.start}:{part_range.stop}: there are {parts:,} parts, from 0 on; "
            "`curate embed --dry-run` counts them"
        )
    return range(part_range.start, min(part_range.stop, parts))


def _begin(run: Run, source: Source, plan: Plan, settings: dict[str, Any]) -> None:
    """What needs no towers: equal plans write equal files, so processes that share a run do not mind each other."""
    if run.refuse_other(settings):
        say(f"{run.root} holds parts of this run; the sound ones are kept")
    if source.expected_rows not in (None, plan.source_rows):
        say(f"note: the manifest expects {source.expected_rows:,} rows, the files hold {plan.source_rows:,}")
    write_table(plan.pairs, run.pairs, tables.PAIRS)
    write_table(plan.dropped, run.table("dropped") / "plan.parquet", tables.DROPPED)


class _Shown:
    """Every worker's reports in one line of progress: first the prompts, then the images."""

    def __init__(self, lines: ExitStack, run: Run, tally: Tally, settings: dict[str, Any], prompts: int) -> None:
        self.lines, self.run, self.tally, self.settings, self.prompts = lines, run, tally, settings, prompts
        self.seen: set[str] = set()
        self.advance: Advance | None = None
        self.add: Callable[[Done], None] | None = None

    def __call__(self, message: PromptsDone | Done) -> None:
        if isinstance(message, Done):
            self._images(message)
        elif message.part not in self.seen and self.add is None:  # other workers find it, too
            self.seen.add(message.part)
            self._prompts(message.prompts)

    def _prompts(self, prompts: int) -> None:
        if self.advance is None:
            self.advance = self.lines.enter_context(progress("prompts", self.prompts))
        self.advance(prompts)

    def _images(self, done: Done) -> None:
        if self.add is None:
            self.lines.close()
            self.tally.restart(done.elapsed_sec)
            self.add = self.lines.enter_context(live(self.run.root, self.tally, self.settings))
        self.add(done)


def _end(run: Run, plan: Plan, source: Source, scorers: Scorers, computed: dict[str, Any]) -> dict[str, Any]:
    """The counts of the whole run, and it is finished; or, beside other processes, what is left to do."""
    rows = {part_name(index): part_rows(run, part_name(index), hashed=False) for index in range(len(plan.parts))}
    left = [name for name, counted in rows.items() if counted is None]
    parts = {"parts": len(plan.parts), "parts_computed": computed.pop("parts"), "parts_left": len(left)}
    if left:
        return parts | {"first_left": left[0]}
    summary = _summary(run, plan, source, scorers, [counted for counted in rows.values() if counted]) | parts
    summary["computed"] = computed
    run.mark_finished(summary)
    return summary


def shown_settings(source: Source, scorers: Scorers, options: EmbedOptions) -> dict[str, Any]:
    """What `curate status` and embed.json say of how a run is computed."""
    return {
        "dataset": source.manifest.name,
        "split": source.split,
        "models": scorers.models,
        "scorers": ", ".join(scorers.names),
        "device": options.device,
        "precision": options.precision,
        "batch": options.batch_images or "auto",
        "part_images": options.part_images,
        "part_bytes": options.part_bytes,
        "decode_processes": options.decode_processes,
    }


def _tally(run: Run, plan: Plan, mine: range, todo: list[int]) -> Tally:
    """Nothing done yet, beside the parts that are there."""
    stands = sorted(set(mine) - set(todo))
    images, before = plan.parts.only(mine).image_count, plan.parts.only(stands).image_count
    rows = (part_rows(run, part_name(index), hashed=False) for index in stands)
    return Tally(images, len(mine), before, len(stands), any((counted or {}).get("images") for counted in rows))


def _computed(run: Run, tally: Tally, settings: dict[str, Any], parts: int) -> dict[str, Any]:
    """How this process came to its parts; embed.json's other counts are those of the whole run.

    With nothing left to compute, what is known of an earlier process stays.
    """
    if not parts:
        try:
            return dict(run.summary().get("computed", {})) | {"parts": 0}
        except RunError:
            return {"parts": 0}
    numbers = tally.numbers()
    kept = ("elapsed_sec", "images_per_sec", "busy_share", "dropped", "devices")
    return {"images": tally.done_images, "parts": parts} | {name: numbers[name] for name in kept} | settings


def _summary(run: Run, plan: Plan, source: Source, scorers: Scorers, counted: list[dict[str, int]]) -> dict[str, Any]:
    """The counts must add up: rows = pairs + Σ dropped, images = scored + Σ dropped."""
    dropped_pairs = Counter(plan.dropped["reason"].to_pylist())
    dropped = [run.table("dropped") / f"{part_name(index)}.parquet" for index in range(len(plan.parts))]
    reasons = itertools.chain.from_iterable(pq.read_table(path)["reason"].to_pylist() for path in dropped)
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
        "scorers": scorers.names,
        "not_finite": _not_finite(run, len(plan.parts), scorers.names),
    }


def _not_finite(run: Run, parts: int, scorers: list[str]) -> dict[str, int]:
    """Of each scorer that gave any, how many scores are no finite number: ranking and comparing take them as missing.

    Towers are held to finite numbers; a scorer's own arithmetic, or a plug-in's, may still lose them.
    """
    counts: Counter[str] = Counter()
    for index in range(parts):
        path = run.table("scores") / f"{part_name(index)}.parquet"
        table = pq.read_table(path, columns=[tables.score_column(name) for name in scorers])
        for name, column in zip(scorers, table.itercolumns(), strict=True):
            counts[name] += len(column) - (pc.sum(pc.is_finite(column)).as_py() or 0)
    return {name: count for name, count in counts.items() if count}
