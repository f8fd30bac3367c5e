"""`curate embed`: the source's pairs, unique images and prompts, scored once, in parts that survive a kill."""

import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pyarrow.compute as pc

from curate.embed.device.pipeline import EmbedOptions
from curate.embed.device.reports import Done, Tally
from curate.embed.device.worker import EmbedWork, PromptsDone
from curate.embed.engines import Engine
from curate.embed.engines.serial import Serial
from curate.embed.memory import give_back
from curate.embed.planning.parts import part_name
from curate.embed.planning.plan import Plan, make_plan
from curate.embed.progress import live, read_progress, ticking, write_progress
from curate.errors import RunError, SourceError, UsageError
from curate.models.scoring import Scorers
from curate.sources.parquet import Source
from curate.storage.run import RunFiles, rows_of_parts, sound_parts, write_plan
from curate.storage.threads import in_threads
from curate.terminal.progress import Advance, progress, say
from schemas import tables
from schemas.reasons import IMAGE_REASONS

NEWS_SEC = 60.0
READING_THREADS = 8


def embed(
    run: RunFiles,
    source: Source,
    scorers: Scorers,
    options: EmbedOptions,
    engine: Engine | None = None,
    part_range: range | None = None,
) -> dict[str, Any]:
    """Write every table of the run and return the counts; sound parts of an earlier attempt are kept.

    part_range: these parts only, beside other processes that do the others; who finds all parts there counts them.
    At a URL parts are sound whose files have the size that their marker says: to hash them is to read them.
    Raises: RunError when the directory holds tables made under other settings; SourceError; WriteError.
    """
    plan = make_plan(source, options.part_images, options.part_bytes)
    mine = _in_range(len(plan.parts), part_range)
    with run.locked(shared=part_range is not None):
        settings = source_settings(source, options)
        _begin(run, source, plan, settings)
        planned, plan = _planned(plan, source), plan.without_tables()
        give_back()
        sound = sound_parts(run, [part_name(index) for index in mine], hashed=not run.folder.remote)
        todo = [index for index in mine if part_name(index) not in sound]
        work = EmbedWork(run.absolute(), source, scorers, plan.prompts, options, settings, anew=bool(todo))
        shown, tally = shown_settings(source, scorers, options), _tally(run, plan, mine, todo)
        with ExitStack() as lines:
            if todo:
                lines.enter_context(ticking(run.folder, tally, shown))
            report = _Shown(lines, run, tally, shown, len(plan.prompts))
            try:
                (engine or Serial(options.device)).run(work, plan.parts.only(todo), report)
            except BaseException as error:
                if todo and report.add is None:  # later failures are written by what shows the images
                    lines.close()
                    write_progress(run.folder, "stopped", shown, tally, error=str(error) or type(error).__name__)
                raise
        return _end(run, plan, planned, scorers, _computed(run, tally, shown, len(todo)))


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


def _begin(run: RunFiles, source: Source, plan: Plan, settings: dict[str, Any]) -> None:
    """What needs no towers: equal plans write equal files, so processes that share a run do not mind each other."""
    if run.refuse_other(settings):
        say(f"{run.folder} holds parts of this run; the sound ones are kept")
        _note_another(run)
    if source.expected_rows not in (None, plan.source_rows):
        say(f"note: the manifest expects {source.expected_rows:,} rows, the files hold {plan.source_rows:,}")
    write_plan(run, (plan.pairs, tables.PAIRS), (plan.dropped, tables.DROPPED))


def _note_another(run: RunFiles) -> None:
    """At a URL nothing keeps a second process out; it should know of the first."""
    last = read_progress(run.folder) if run.folder.remote else None
    if last and last.get("state") == "running" and (ago := time.time() - last.get("written_at", 0.0)) < NEWS_SEC:
        say(
            f"note: a process wrote to {run.folder} {max(ago, 0):.0f} s ago; if it is still at work, give each its own "
            "--part-range, or parts are computed twice"
        )


class _Shown:
    """Every worker's reports in one line of progress: first the prompts, then the images."""

    def __init__(self, lines: ExitStack, run: RunFiles, tally: Tally, settings: dict[str, Any], prompts: int) -> None:
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
            self.add = self.lines.enter_context(live(self.run.folder, self.tally, self.settings))
        self.add(done)


def _end(
    run: RunFiles, plan: Plan, planned: dict[str, Any], scorers: Scorers, computed: dict[str, Any]
) -> dict[str, Any]:
    """The counts of the whole run, and it is finished; or, beside other processes, what is left to do."""
    rows = rows_of_parts(run, map(part_name, range(len(plan.parts))))
    left = [name for name, counted in rows.items() if counted is None]
    parts = {"parts": len(plan.parts), "parts_computed": computed.pop("parts"), "parts_left": len(left)}
    if left:
        return parts | {"first_left": left[0]}
    summary = _summary(run, plan, planned, scorers, [counted for counted in rows.values() if counted]) | parts
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


def _tally(run: RunFiles, plan: Plan, mine: range, todo: list[int]) -> Tally:
    """Nothing done yet, beside the parts that are there."""
    stands = sorted(set(mine) - set(todo))
    images, before = plan.parts.only(mine).image_count, plan.parts.only(stands).image_count
    rows = rows_of_parts(run, map(part_name, stands)).values()
    return Tally(images, len(mine), before, len(stands), any((counted or {}).get("images") for counted in rows))


def _computed(run: RunFiles, tally: Tally, settings: dict[str, Any], parts: int) -> dict[str, Any]:
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


def _planned(plan: Plan, source: Source) -> dict[str, Any]:
    """What the summary says of the plan: rows = pairs + Σ dropped."""
    counts = plan.counts()
    return {
        "dataset": source.manifest.name,
        "split": source.split,
        "source_rows": plan.source_rows,
        "pairs": plan.pairs.num_rows,
        "ties": plan.pairs["preference"].null_count if source.manifest.judged else 0,
        "judged": source.manifest.judged,
        "dropped_pairs": counts["dropped_pairs"],
        "prompts": len(plan.prompts),
        "images": plan.image_count,
    }


def _summary(
    run: RunFiles, plan: Plan, planned: dict[str, Any], scorers: Scorers, counted: list[dict[str, int]]
) -> dict[str, Any]:
    """The counts must add up: images = scored + Σ dropped."""
    names = [part_name(index) for index in range(len(plan.parts))]
    dropped_images = _dropped_images(run, names)
    scored = sum(rows["images"] for rows in counted)
    if scored + sum(dropped_images.values()) != plan.image_count or not set(dropped_images) <= set(IMAGE_REASONS):
        raise SourceError(f"the counts of {run.folder} do not add up; delete it and run `curate embed` again")
    return planned | {
        "scored_images": scored,
        "dropped_images": dict(sorted(dropped_images.items())),
        "scored_prompt_images": sum(rows["scores"] for rows in counted),
        "scorers": scorers.names,
        "not_finite": _not_finite(run, names, scorers.names),
    }


def _dropped_images(run: RunFiles, names: list[str]) -> Counter[str]:
    """Images of these parts that were set aside, by reason."""

    def reasons(name: str) -> list[str]:
        return run.folder.read_table(f"dropped/{name}.parquet", ["reason"])["reason"].to_pylist()

    counts: Counter[str] = Counter()
    for found in in_threads(reasons, names, _reading_threads(run)):
        counts.update(found)
    return counts


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
