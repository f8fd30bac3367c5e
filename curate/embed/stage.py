"""`curate embed`: the source's pairs, unique images and prompts, scored once, in parts that survive a kill."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from curate.embed.device.reports import DeviceReport, PromptsDone, RunProgress
from curate.embed.engines import Engine
from curate.embed.engines.processes import Serial
from curate.embed.options import ComputeOptions, EmbedOptions
from curate.embed.planning.again import found_again
from curate.embed.planning.parts import part_name
from curate.embed.planning.plan import Plan, make_plan, release_freed_memory
from curate.embed.progress import kept_progress, read_progress, shown_progress
from curate.embed.summary import planned_counts, run_summary
from curate.errors import RunError, UsageError
from curate.models.model_set import load_model_set
from curate.sources.manifest import DEMO, load_manifest
from curate.sources.moved import as_recorded
from curate.sources.opening import open_source
from curate.sources.parquet import Source
from curate.storage.run import PAIRS_FILE, RunFiles, rows_of_parts, sound_parts, write_plan
from curate.terminal.progress import Advance, progress, say
from schemas import tables

if TYPE_CHECKING:
    from curate.embed.engines.workers import Workers
    from curate.models.scoring import Scorers, UnloadedScoring

NEWS_SEC = 60.0
TEMPLATE = "generic"


def embed(run: RunFiles, options: EmbedOptions | None = None) -> dict[str, Any]:
    """Score every image and prompt of a data set once, write the run's tables, and return the counts.

    What of an earlier attempt is there and sound is kept. With options.parity the counts hold `parity`, too.
    Raises: UsageError for an option; ManifestError; SourceError; ModelError; RunError when the run was made under
    other settings; WriteError.

    >>> from curate.storage import open_run
    >>> counts = embed(open_run("run"), EmbedOptions(manifest="demo"))
    >>> counts["source_rows"] == counts["pairs"] + sum(counts["dropped_pairs"].values())
    True
    """
    options = options or EmbedOptions()
    with prepared(_as_begun(run, options)) as (source, scorers, compute, workers):
        source = as_recorded(run, source)
        run.refuse_other(source_settings(source, compute))  # before minutes go into loading weights
        source = source.with_rows(run.folder)
        if options.engine != "ray":  # there the machines that compute fetch
            scorers = scorers.fetched()  # here, before several workers would
        say(f"models '{scorers.model_set.name}', scorers {', '.join(scorers.names)}, on {workers.words}")
        summary = embed_source(run, source, scorers, compute, workers.engine, options.part_range)
        if options.parity is not None:
            from curate.embed.parity import measure_parity

            chosen = list(scorers.specs)
            summary["parity"] = measure_parity(run, source, scorers.model_set, chosen, compute, options.parity)
    return summary


@contextmanager
def prepared(
    options: EmbedOptions, here: bool = False
) -> Iterator[tuple[Source, "UnloadedScoring", ComputeOptions, "Workers"]]:
    """What the options come to: the files, the models by name, how the work is cut, and workers, as long as the block.

    here: whether this process itself is to compute, too, as for parity. Raises: as `embed`.
    """
    import torch

    from curate.embed.device.precision import choose_precision
    from curate.embed.engines.workers import find_workers
    from curate.models.scoring import UnloadedScoring

    if options.manifest == DEMO:
        say("data set: the bundled demo, a miniature world of coloured shapes (--manifest names another)")
    if options.manifest == TEMPLATE:
        raise UsageError(
            f"--manifest {TEMPLATE} is a template to copy, and no data set; "
            "`curate inspect DATA --write my_pairs.toml` writes one for your data"
        )
    manifest = load_manifest(options.manifest)
    source = open_source(
        manifest, options.split, list(options.source), options.images, options.unpack, options.dimension
    )
    model_set = load_model_set(options.models or manifest.models or "published")
    chosen = tuple(model_set.choose(list(options.scorers)))
    with find_workers(options, partial(choose_precision, options.precision, model_set, list(chosen))) as workers:
        compute = workers.compute_options(options)
        here_too = options.engine == "ray" and (here or options.parity)
        if here_too and compute.device != "cpu" and not torch.cuda.is_available():
            raise UsageError("--parity and --calibrate compute in this process, which has no GPU; use --device cpu")
        yield source, UnloadedScoring(model_set, chosen, compute.precision), compute, workers


def _as_begun(run: RunFiles, options: EmbedOptions) -> EmbedOptions:
    """`--precision auto` is measured once: a run that is there goes on as it was begun."""
    if options.precision != "auto" or not run.is_begun():
        return options
    return replace(options, precision=run.settings()["settings"].get("precision", "auto"))


def embed_source(
    run: RunFiles,
    source: Source,
    scorers: "Scorers",
    options: ComputeOptions,
    engine: Engine | None = None,
    part_range: range | None = None,
) -> dict[str, Any]:
    """`embed` of a source and scorers that are there already, loaded or not, by the device of `options`.

    part_range: these parts only, beside other processes that do the others; who finds all parts there counts them.
    At a URL parts are sound whose files have the size that their marker says: to hash them is to read them.
    Raises: RunError when the directory holds tables made under other settings; SourceError; WriteError.
    """
    from curate.embed.device.worker import EmbedWork

    source = as_recorded(run, source)
    plan = make_plan(source, options.part_images, options.part_bytes)
    mine = _in_range(len(plan.parts), part_range)
    with run.locked(shared=part_range is not None):
        settings = source_settings(source, options)
        _write_plan(run, source, plan, settings)
        planned, plan = planned_counts(plan, source), plan.without_tables()
        release_freed_memory()
        sound = sound_parts(run, [part_name(index) for index in mine], hashed=not run.folder.remote)
        sound -= found_again(run, source, plan.parts.only([index for index in mine if part_name(index) in sound]))
        todo = [index for index in mine if part_name(index) not in sound]
        work = EmbedWork(run.absolute(), source, scorers, plan.prompts, options, settings, anew=bool(todo))
        shown, run_progress = shown_settings(source, scorers, options), _run_progress(run, plan, mine, todo)
        with ExitStack() as lines:
            if todo:
                lines.enter_context(kept_progress(run.folder, run_progress, shown))
            report = _Shown(lines, run, run_progress, shown, len(plan.prompts))
            (engine or Serial(options.device)).run(work, plan.parts.only(todo), report)
        return _finish_if_whole(run, plan, planned, scorers, _computed(run, run_progress, shown, len(todo)))


def source_settings(source: Source, options: ComputeOptions) -> dict[str, Any]:
    """The settings that are known before any weights are loaded."""
    return {
        "manifest": source.settings(),
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


def _write_plan(run: RunFiles, source: Source, plan: Plan, settings: dict[str, Any]) -> None:
    """What needs no towers: equal plans write equal files, so processes that share a run do not mind each other."""
    if run.refuse_other(settings):
        say(f"{run.folder} holds parts of this run; the sound ones are kept")
        _note_another(run)
        if source.places and run.folder.size(PAIRS_FILE) and not run.folder.read_table(PAIRS_FILE).equals(plan.pairs):
            raise RunError(
                f"{source.places[source.files[0]]} and what is with it are not those of {run.folder}; correct --source"
            )
        run.note_moved(source.places)
    if source.expected_rows not in (None, plan.source_rows):
        say(f"note: the manifest expects {source.expected_rows:,} rows, the files hold {plan.source_rows:,}")
    write_plan(run, (plan.pairs, plan.pairs.schema), (plan.dropped, tables.DROPPED))


def _note_another(run: RunFiles) -> None:
    """At a URL nothing keeps a second process out; it should know of the first."""
    last = read_progress(run.folder) if run.folder.remote else None
    if last and last.get("state") == "running" and (ago := time.time() - last.get("written_at", 0.0)) < NEWS_SEC:
        say(
            f"note: a process wrote to {run.folder} {max(ago, 0):.0f} s ago; if it is still at work, give each its own "
            "--part-range, or parts are computed twice"
        )


@dataclass
class _Shown:
    """Every worker's reports in one line of progress: first the prompts, then the images."""

    lines: ExitStack
    run: RunFiles
    run_progress: RunProgress
    settings: dict[str, Any]
    prompts: int
    seen: set[str] = field(default_factory=set)
    advance: Advance | None = None
    add: Callable[[DeviceReport], None] | None = None

    def __call__(self, message: PromptsDone | DeviceReport) -> None:
        if isinstance(message, DeviceReport):
            if self.add is None:
                self.lines.close()
                self.run_progress.restart(message.elapsed_sec)
                self.add = self.lines.enter_context(shown_progress(self.run.folder, self.run_progress, self.settings))
            self.add(message)
        elif message.part not in self.seen and self.add is None:  # other workers find it, too
            self.seen.add(message.part)
            if self.advance is None:
                self.advance = self.lines.enter_context(progress("prompts", self.prompts))
            self.advance(message.prompts)


def _finish_if_whole(
    run: RunFiles, plan: Plan, planned: dict[str, Any], scorers: "Scorers", computed: dict[str, Any]
) -> dict[str, Any]:
    """The counts of the whole run, and it is finished; or, beside other processes, what is left to do."""
    rows = rows_of_parts(run, map(part_name, range(len(plan.parts))))
    left = [name for name, counted in rows.items() if counted is None]
    parts = {"parts": len(plan.parts), "parts_computed": computed.pop("parts"), "parts_left": len(left)}
    if left:
        return parts | {"first_left": left[0]}
    summary = run_summary(run, plan, planned, scorers, [counted for counted in rows.values() if counted]) | parts
    summary["computed"] = computed
    run.mark_finished(summary)
    return summary


def shown_settings(source: Source, scorers: "Scorers", options: ComputeOptions) -> dict[str, Any]:
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


def _run_progress(run: RunFiles, plan: Plan, mine: range, todo: list[int]) -> RunProgress:
    """Nothing done yet, beside the parts that are there."""
    stands = sorted(set(mine) - set(todo))
    images, before = plan.parts.only(mine).image_count, plan.parts.only(stands).image_count
    rows = rows_of_parts(run, map(part_name, stands)).values()
    return RunProgress(images, len(mine), before, len(stands), any((counted or {}).get("images") for counted in rows))


def _computed(run: RunFiles, run_progress: RunProgress, settings: dict[str, Any], parts: int) -> dict[str, Any]:
    """How this process came to its parts; embed.json's other counts are those of the whole run.

    With nothing left to compute, what is known of an earlier process stays.
    """
    if not parts:
        try:
            return dict(run.summary().get("computed", {})) | {"parts": 0}
        except RunError:
            return {"parts": 0}
    numbers = run_progress.numbers()
    kept = ("elapsed_sec", "images_per_sec", "busy_share", "dropped", "devices")
    return {"images": run_progress.done_images, "parts": parts} | {name: numbers[name] for name in kept} | settings
