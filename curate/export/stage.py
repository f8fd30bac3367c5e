"""`curate export-shards`: the selected pairs as WebDataset tars, the source's bytes untouched unless asked for.

Selected pairs lie scattered over the source. So every tar is laid out first, which needs only the images' lengths;
then each row group is read once and its images are written where they belong. The same selection gives the same
bytes, whatever the number of workers.
"""

import os
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from curate.database.connection import connect_views
from curate.export.card import write_card
from curate.export.destination import Destination
from curate.export.encoding import Encoding
from curate.export.index import ShardFolder, about_export, split_indices
from curate.export.order import SplitShare
from curate.export.samples import SelectedPairs, common_extension
from curate.export.tars.fill import StagedShards, fill_shards, flush
from curate.export.tars.layout import TarLayout
from curate.export.tars.plan import PlannedShard, ShardPlan, ShardSize, plan_shards
from curate.export.tars.spool import Spool, spooled
from curate.rank.rankings import ranking_settings
from curate.sources.moved import relocate
from curate.sources.opening import reopen_source
from curate.storage.files import file_sha256
from curate.storage.run import Run
from curate.storage.threads import in_threads
from curate.terminal.progress import progress, say


@dataclass(frozen=True)
class ExportOptions:
    """What is written where.

    name: of the ranking. output: a folder or URL; None: RUN/shards. seed: of the shuffle; None: in rank order.
    source: where the data set's files lie now, if they moved; the run notes it.
    """

    name: str = "default"
    output: str | None = None
    size: ShardSize = field(default_factory=ShardSize)
    seed: int | None = None
    shares: tuple[SplitShare, ...] = ()
    encoding: Encoding = field(default_factory=Encoding)
    workers: int = min(4, os.cpu_count() or 1)
    source: tuple[str, ...] = ()


def export_shards(run: Run, options: ExportOptions | None = None) -> dict[str, Any]:
    """Write the tars, then the card and the index of each split; return what the indices say.

    Raises: RunError when there is no such ranking or an image is not the one that was scored; SourceError; WriteError.

    >>> from curate.storage import open_run
    >>> index = export_shards(open_run("run"), ExportOptions(size=ShardSize(pairs=200)))
    >>> index["pairs"] == sum(shard["samples"] for shard in index["shards"])
    True
    """
    options = options or ExportOptions()
    name, output = options.name, options.output or str(run.root / "shards")
    run.summary()  # that embedding has finished
    if options.source:
        relocate(run, list(options.source))
    settings, ranking = run.settings(), ranking_settings(run, name)
    pairs = SelectedPairs(connect_views(run, rankings=False), run, name, options.seed)
    source = reopen_source(settings["settings"], run.folder, settings.get("moved"))
    destination = Destination(output, run.root / ".export")
    with destination.held(), ExitStack() as stack:
        folder, staged = ShardFolder(destination), StagedShards(destination)
        folder.mark_unfinished()
        spool = spooled(stack, pairs, source, destination.staging, options.encoding, options.workers)
        formats = pairs.formats() if spool is None else {facts.format for facts in spool.facts.values()}
        extension = common_extension(formats)
        with staged.tidied():
            plan = _begun(pairs, folder, staged, options, extension, spool)
            pairs.close()
            with progress("images", len(plan.places)) as advance:
                fill_shards(plan, staged, spool or source, options.workers, advance)
            _finish(plan, folder, staged, options.workers)
        about = about_export(pairs.dataset, ranking, extension, options.seed, options.encoding)
        indices = split_indices(plan, folder.entries, options.shares, about)
        for split, index in indices.items():
            if not index["pairs"]:
                say(f"note: no prompt fell into the split '{split}'" if split else "note: the ranking selects no pair")
        write_card(destination, settings, ranking, indices, pairs.votes)
        folder.write(indices, options.shares)
        destination.clear()
    return _report(output, options, indices, len(folder.entries) - len(staged.layouts))


def _begun(
    pairs: SelectedPairs,
    folder: ShardFolder,
    staged: StagedShards,
    options: ExportOptions,
    extension: str,
    spool: Spool | None,
) -> ShardPlan:
    """Every shard laid out, and begun where it does not stand yet."""

    def begin(shard: PlannedShard, layout: TarLayout) -> bool:
        if folder.stands(shard):
            return False
        staged.begin(shard, layout)
        return True

    facts, encoded = (None if spool is None else spool.facts), options.encoding.changes
    plan = plan_shards(pairs, options.size, options.shares, extension, facts, encoded, begin)
    if folder.entries:
        say(f"{len(folder.entries):,} of {len(plan.shards):,} shards stand already and are sound")
    return plan


def _finish(plan: ShardPlan, folder: ShardFolder, staged: StagedShards, workers: int) -> None:
    """Hash each tar while its bytes are still in memory, flush it, and give it its final name."""
    todo = [shard for shard in plan.shards if shard.name not in folder.entries]

    def finish(shard: PlannedShard) -> None:
        path = staged.destination.staged(shard.name)
        sha256 = file_sha256(path)
        flush(path)
        folder.publish(shard, sha256)

    for _ in in_threads(finish, todo, workers):
        pass
    staged.forget()


def _report(output: str, options: ExportOptions, indices: dict[str, dict[str, Any]], kept: int) -> dict[str, Any]:
    """What the command prints: of an export without splits its index, of one with splits that of each."""
    if options.shares:
        pairs = sum(index["pairs"] for index in indices.values())
        return {"output": output, "pairs": pairs, "kept_shards": kept, "splits": indices}
    return {"output": output, "kept_shards": kept} | indices[""]
