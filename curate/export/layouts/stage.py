"""`curate export-for`: the selected pairs in the layout of another trainer, the source's bytes unless asked for.

The images are read once into a store beside the output, in rank order; the layout walks it; the index is written last.
"""

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from curate.database.connection import connect_views
from curate.errors import RunError
from curate.export.card import data_set_facts
from curate.export.destination import Destination
from curate.export.encoding import Encoding
from curate.export.index import about_export
from curate.export.layouts.found import find_layout
from curate.export.layouts.output import Output, Sample
from curate.export.layouts.store import NAME, plan_store, selection_digest, stored_samples
from curate.export.samples import ImageFacts, SelectedPairs, common_extension
from curate.export.tars.fill import StagedShards, fill_shards
from curate.export.tars.layout import TarLayout
from curate.export.tars.spool import spooled
from curate.rank.rankings import ranking_settings
from curate.sources.opening import reopen_source
from curate.sources.parquet import Location
from curate.storage.run import Run
from curate.terminal.progress import progress, say

INDEX = "export.json"
UNFINISHED = "unfinished.json"
FORMAT = "pairsieve-export-1"


@dataclass(frozen=True)
class LayoutOptions:
    """What is written where. name: of the ranking. output: a folder or URL; None: RUN/exports/NAME-LAYOUT."""

    layout: str
    name: str = "default"
    output: str | None = None
    encoding: Encoding = field(default_factory=Encoding)
    workers: int = min(4, os.cpu_count() or 1)


def export_for(run: Run, options: LayoutOptions) -> dict[str, Any]:
    """Write the selected pairs, best first, in a layout; return what the index says.

    Raises: UsageError; RunError when there is no such ranking, the output holds anything else, or an image is not the
    one that was scored; SourceError; WriteError.

    >>> from curate.storage import open_run
    >>> index = export_for(open_run("run"), LayoutOptions("folders"))
    >>> index["layout"]
    'folders'
    """
    write = find_layout(options.layout)
    run.summary()  # that embedding has finished
    settings, ranking = run.settings(), ranking_settings(run, options.name)
    pairs = SelectedPairs(connect_views(run, rankings=False), run, options.name, seed=None)
    source = reopen_source(settings["settings"], run.folder, settings.get("moved"))
    output = options.output or str(run.root / "exports" / f"{options.name}-{options.layout}")
    destination, encoding = Destination(output, run.root / ".export"), options.encoding
    digest = selection_digest(pairs, {"layout": options.layout, "encoded": encoding.stated()})
    with destination.held(), ExitStack() as stack:
        staged = StagedShards(destination)
        _claim(destination, {"format": FORMAT, "layout": options.layout, "content_sha256": digest})
        spool = spooled(stack, pairs, source, destination.staging, encoding, options.workers)
        new_facts = None if spool is None else spool.facts
        formats = pairs.formats() if new_facts is None else {facts.format for facts in new_facts.values()}
        written = Output(destination, pairs.count(), common_extension(formats))
        with staged.tidied():
            plan = plan_store(pairs, new_facts, digest)
            staged.begin(plan.shards[0], TarLayout())
            with progress("images", len(plan.places)) as advance:
                fill_shards(plan, staged, spool or source, options.workers, advance)
            write(_counted(destination.staged(NAME), pairs, new_facts, encoding.changes), written)
        staged.discard()
        if not destination.remote:
            os.sync()  # the index says that all of it is there; one by one would take longer than writing
        about = about_export(pairs.dataset, ranking, written.extension, None, encoding)
        counts = {"pairs": written.pairs, "files": written.files, "bytes": written.size_bytes}
        index = about | {"format": FORMAT, "layout": options.layout, "source": data_set_facts(settings), **counts}
        destination.write_text(INDEX, json.dumps(index | {"content_sha256": digest}, indent=2) + "\n")
        destination.remove(UNFINISHED)
        destination.clear()
    if not written.pairs:
        say("note: the ranking selects no pair")
    return {"output": output} | index


def _counted(
    store: Path, pairs: SelectedPairs, new_facts: dict[Location, ImageFacts] | None, encoded: bool
) -> Iterator[Sample]:
    """The samples of a store, with progress as a layout takes them."""
    with progress("pairs written", pairs.count()) as advance:
        for sample in stored_samples(store, pairs, new_facts, encoded):
            yield sample
            advance(1)


def _claim(destination: Destination, mark: dict[str, Any]) -> None:
    """Mark the output as unfinished. Raises: RunError when it holds anything but this very export."""
    for name in (INDEX, UNFINISHED):
        text = destination.read_text(name)
        if text is not None and f'"content_sha256": "{mark["content_sha256"]}"' not in text:
            raise RunError(f"{destination.output} holds another export; delete it, or choose another --output")
        if text is not None:
            break
    else:
        if found := destination.folder.names(""):
            where = f"{destination.output} holds other files ({found[0]})"
            raise RunError(f"{where}; choose a folder that is empty or not there yet")
    destination.write_text(UNFINISHED, json.dumps(mark) + "\n")
    destination.remove(INDEX)
