"""`curate export-shards` and `curate export-for`: the selected pairs as tars, or in the layout of another trainer.

Selected pairs lie scattered over the source. So their images are read into a store first, row group by row group; then
a layout walks the store in the pairs' order. The source's bytes stay untouched unless asked for.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import astuple, dataclass, field
from typing import Any

from curate.database.connection import connect_views
from curate.errors import RunError
from curate.export.card import MARK, data_set_facts, write_card
from curate.export.destination import Destination
from curate.export.encoding import Encoding
from curate.export.index import ShardFolder, about_export, split_indices
from curate.export.layouts.found import find_layout
from curate.export.layouts.output import Output, samples_of
from curate.export.layouts.shards import Shard, Sides, cut, write_tar
from curate.export.layouts.store import Store, Stored, Wanted
from curate.export.order import ShardSize, SplitShare, split_of
from curate.export.samples import SIDES, Row, SelectedPairs, content_sha256, facts_of
from curate.rank.rankings import ranking_settings
from curate.sources.moved import relocate
from curate.sources.opening import reopen_source
from curate.sources.parquet import Source
from curate.storage.run import Run
from curate.storage.threads import in_threads
from curate.terminal.progress import progress, say

INDEX = "export.json"
UNFINISHED = "unfinished.json"
FORMAT = "pairsieve-export-1"
WORKERS = min(4, os.cpu_count() or 1)


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
    workers: int = WORKERS
    source: tuple[str, ...] = ()
    dry_run: bool = False


@dataclass(frozen=True)
class LayoutOptions:
    """What is written where. name: of the ranking. output: a folder or URL; None: RUN/exports/NAME-LAYOUT."""

    layout: str
    name: str = "default"
    output: str | None = None
    shares: tuple[SplitShare, ...] = ()
    encoding: Encoding = field(default_factory=Encoding)
    workers: int = WORKERS
    dry_run: bool = False


def export_shards(run: Run, options: ExportOptions | None = None) -> dict[str, Any]:
    """Write the tars, then the card and the index of each split; return what the indices say.

    Raises: RunError when there is no such ranking or an image is not the one that was scored; SourceError; WriteError.

    >>> from curate.storage import open_run
    >>> index = export_shards(open_run("run"), ExportOptions(size=ShardSize(pairs=200)))
    >>> index["pairs"] == sum(shard["samples"] for shard in index["shards"])
    True
    """
    options = options or ExportOptions()
    run.summary()  # that embedding has finished
    if options.source and not options.dry_run:
        relocate(run, list(options.source))
    output = options.output or str(run.root / "shards")
    with _opened(run, options, output, options.seed) as export:
        if options.dry_run:
            return _planned(export, output)
        folder = ShardFolder(export.destination)
        folder.mark_unfinished()
        with export.store.tidied():
            _read_shards(export, folder, options)
            prompts = _write_shards(export, folder, options)
        indices = split_indices(prompts, folder.entries, options.shares, export.about(options.seed))
        for split, index in indices.items():
            if not index["pairs"]:
                say(f"note: no prompt fell into the split '{split}'" if split else "note: the ranking selects no pair")
        write_card(export.destination, export.settings, export.ranking, indices, export.pairs.votes)
        folder.write(indices, options.shares)
        export.destination.finish(MARK)
    report = {"output": output, "kept_shards": folder.kept}
    if options.shares:
        return report | {"pairs": sum(index["pairs"] for index in indices.values()), "splits": indices}
    return report | indices[""]


def export_for(run: Run, options: LayoutOptions) -> dict[str, Any]:
    """Write the selected pairs, best first, in a layout; return what the index says.

    Raises: UsageError; RunError when there is no such ranking, the output holds anything else, or an image is not the
    one that was scored; SourceError; WriteError.

    >>> from curate.storage import open_run
    >>> index = export_for(open_run("run"), LayoutOptions("folders"))
    >>> index["layout"]
    'folders'
    """
    find_layout(options.layout)
    run.summary()
    output = options.output or str(run.root / "exports" / f"{options.name}-{options.layout}")
    with _opened(run, options, output) as export:
        if options.dry_run:
            return _planned(export, output)
        destination, wanted, prompts = export.destination, Wanted(), _prompts(options.shares)
        kind = json.dumps([options.layout, *map(astuple, options.shares)])
        digest = content_sha256(export.pairs, kind, _counted(wanted.adding(export.pairs.rows()), options, prompts))
        _claim(destination, {"format": FORMAT, "layout": options.layout, "content_sha256": digest})
        with export.store.tidied():
            export.store.fetch(wanted, export.source, options.workers)
            written = _write_layout(export, options, {split: sum(found.values()) for split, found in prompts.items()})
        if not destination.remote:
            os.sync()  # the index says that all of it is there; one by one would take longer than writing
        about = export.about(None) | {"format": FORMAT, "layout": options.layout, "content_sha256": digest}
        counts = {split: {"pairs": one.pairs, "prompts": len(prompts[split])} for split, one in written.items()}
        write_card(destination, export.settings, export.ranking, {s: about | of for s, of in counts.items()}, False)
        index = about | {"source": data_set_facts(export.settings)}
        index |= {"pairs": export.pairs.count, "prompts": sum(map(len, prompts.values()))}
        index |= {"files": sum(one.files for one in written.values())}
        index |= {"bytes": sum(one.size_bytes for one in written.values())}
        index |= {"splits": counts} if options.shares else {}
        destination.write_text(INDEX, json.dumps(index, indent=2) + "\n")
        destination.remove(UNFINISHED)
        destination.finish(MARK)
    if not export.pairs.count:
        say("note: the ranking selects no pair")
    return {"output": output} | index


@dataclass(frozen=True)
class _Export:
    """What goes where. settings: run.toml; ranking: its toml."""

    settings: dict[str, Any]
    ranking: dict[str, Any]
    pairs: SelectedPairs
    source: Source
    destination: Destination
    store: Store

    def about(self, seed: int | None) -> dict[str, Any]:
        return about_export(self.pairs, self.ranking, seed)


@contextmanager
def _opened(
    run: Run, options: ExportOptions | LayoutOptions, output: str, seed: int | None = None
) -> Iterator[_Export]:
    settings, ranking = run.settings(), ranking_settings(run, options.name)
    with connect_views(run, rankings=False) as connection:
        pairs = SelectedPairs(connection, run, options.name, seed, options.encoding)
        source = reopen_source(settings["settings"], run.folder, settings.get("moved"))
        destination = Destination(output, run.root / ".export")
        store = Store(destination.staging, options.encoding)
        with nullcontext() if options.dry_run else destination.held():
            yield _Export(settings, ranking, pairs, source, destination, store)


def _planned(export: _Export, output: str) -> dict[str, Any]:
    """What a dry run says. `picture_bytes`: None where pictures are encoded anew, or were not measured."""
    prompts, size_bytes, known = set[str](), 0, export.pairs.measured and not export.pairs.encoding.changes
    for row in export.pairs.rows():
        prompts.add(row["prompt_id"])
        size_bytes += sum(facts_of(row, side).size_bytes for side in SIDES) if known else 0
    counts = {"pairs": export.pairs.count, "prompts": len(prompts), "picture_bytes": size_bytes if known else None}
    return {"output": output, "dry_run": True} | counts


def _prompts(shares: tuple[SplitShare, ...]) -> dict[str, Counter[str]]:
    """For each split how many pairs each of its prompts has; none yet."""
    return {split: Counter() for split in [share.name for share in shares] or [""]}


def _counted(rows: Iterable[Row], options: LayoutOptions, prompts: dict[str, Counter[str]]) -> Iterator[Row]:
    for row in rows:
        prompts[split_of(row["prompt"], options.shares)][row["prompt_id"]] += 1
        yield row


def _write_layout(export: _Export, options: LayoutOptions, counts: dict[str, int]) -> dict[str, Output]:
    """Each split in a folder of its own. counts: of pairs, by split."""
    write, pairs, outputs = find_layout(options.layout), export.pairs, {}
    with progress("pairs written", pairs.count) as advance:
        for split, count in counts.items():
            rows = (row for row in pairs.rows() if split_of(row["prompt"], options.shares) == split)
            outputs[split] = Output(export.destination, count, pairs.extension, split, options.workers)
            write(samples_of(rows, pairs, export.store, advance), outputs[split])
    return outputs


def _shards(export: _Export, options: ExportOptions, stored: bool = False) -> Iterator[Shard]:
    """Cut by what the tables say of the images, or by what the store holds."""

    def facts(row: Row) -> Sides:
        if stored:
            return tuple(export.store.image(row["place"], side).facts for side in SIDES)
        return tuple(facts_of(row, side) for side in SIDES)

    return cut(export.pairs, options.size, options.shares, facts)


def _lengths_unknown(export: _Export, options: ExportOptions) -> bool:
    """Whether only the images in the store tell where a shard ends."""
    return options.size.size_bytes is not None and (options.encoding.changes or not export.pairs.measured)


def _read_shards(export: _Export, folder: ShardFolder, options: ExportOptions) -> None:
    """The images of all shards that do not stand yet."""
    wanted, count = Wanted(), 0
    rows: Iterable[Row] = export.pairs.rows() if _lengths_unknown(export, options) else ()
    for row in rows:
        wanted.add(row)
    if not _lengths_unknown(export, options):
        for count, shard in enumerate(_shards(export, options), start=1):  # noqa: B007
            if not folder.stands(shard.name, shard.content_sha256(export.pairs)):
                for row in shard.rows:
                    wanted.add(row)
    if folder.kept:
        say(f"{folder.kept:,} of {count:,} shards stand already and are sound")
    export.store.fetch(wanted, export.source, options.workers)


def _write_shards(export: _Export, folder: ShardFolder, options: ExportOptions) -> dict[str, int]:
    """The tars that do not stand yet; how many prompts each split has."""
    prompts = _prompts(options.shares)

    def missing() -> Iterator[tuple[Shard, list[tuple[Stored, ...]]]]:
        for shard in _shards(export, options, stored=_lengths_unknown(export, options)):
            prompts[shard.split].update(row["prompt_id"] for row in shard.rows)
            if not folder.stands(shard.name, shard.content_sha256(export.pairs)):
                yield shard, [tuple(export.store.image(row["place"], side) for side in SIDES) for row in shard.rows]

    def write(work: tuple[Shard, list[tuple[Stored, ...]]]) -> int:
        shard, images = work
        path = export.destination.staged(shard.name)
        try:
            size_bytes, sha256 = write_tar(path, export.pairs, shard, images)
            folder.publish(shard.name, len(images), size_bytes, sha256)
        finally:
            path.unlink(missing_ok=True)
        export.store.release(row["place"] for row in shard.rows)
        return len(images)

    with progress("pairs written", export.pairs.count) as advance:
        for done in in_threads(write, missing(), options.workers):
            advance(done)
    return {split: len(found) for split, found in prompts.items()}


def _claim(destination: Destination, mark: dict[str, Any]) -> None:
    """Mark the output as unfinished. Raises: RunError when it holds anything but this very export."""
    for name in (INDEX, UNFINISHED):
        text = destination.read_text(name)
        if text is not None and f'"content_sha256": "{mark["content_sha256"]}"' not in text:
            if destination.repository is None:
                raise RunError(f"{destination.output} holds another export; delete it, or choose another --output")
            destination.clear()
        if text is not None:
            break
    else:
        if found := destination.folder.names(""):
            where = f"{destination.output} holds other files ({found[0]})"
            raise RunError(f"{where}; choose a folder that is empty or not there yet")
    destination.write_text(UNFINISHED, json.dumps(mark) + "\n")
    destination.remove(INDEX)
