"""Which layouts there are: ours, and functions of other packages by the entry point group `pairsieve.layouts`."""

from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from typing import Any

from curate.errors import RunError, UsageError, nearest
from curate.export.layouts import flow_factory, folders, jsonl, parquet
from curate.export.layouts.output import Output, Sample

GROUP = "pairsieve.layouts"
Layout = Callable[[Iterator[Sample], Output], Any]
OURS: dict[str, Layout] = {
    "folders": folders.write,
    "parquet": parquet.write_pickapic,
    "chosen-rejected": parquet.write_chosen_rejected,
    "jsonl": jsonl.write,
    "flow-factory": flow_factory.write,
}


def find_layout(name: str) -> Layout:
    """The layout of that name. Raises: UsageError when there is none; RunError when a package's cannot be used."""
    if name in OURS:
        return OURS[name]
    found = entry_points(group=GROUP)
    entries = found.select(name=name)
    if not entries:
        raise UsageError(f"export-for {name}: there is no such layout{nearest(name, [*OURS, *found.names])}")
    if len(entries) > 1:
        packages = " and ".join(sorted(entry.value.partition(":")[0] for entry in entries))
        raise RunError(f"two installed packages give a layout '{name}': {packages}; uninstall one")
    (entry,) = entries
    try:
        layout = entry.load()
    except Exception as error:  # a package's import may fail in any way
        where = f"layout '{name}' ({entry.value})"
        raise RunError(f"{where} cannot be imported: {type(error).__name__}: {error}") from error
    if not callable(layout):
        raise RunError(f"layout '{name}' ({entry.value}) is not a function of samples and an output")
    return layout
