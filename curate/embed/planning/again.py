"""Images that were missing when their part was computed: a later run looks for them again."""

import pyarrow.compute as pc

from curate.embed.planning.parts import Part, Parts, part_name
from curate.sources.parquet import Source
from curate.storage.run import RunFiles, forget_part, rows_of_parts
from curate.terminal.progress import say


def found_again(run: RunFiles, source: Source, parts: Parts) -> set[str]:
    """Names of the parts of which a missing image can be read now: they lose their markers, and are to be computed.

    parts: those that stand. Raises: SourceError.
    """
    if not parts.images["size_bytes"].null_count():  # they are in the files, which have not changed
        return set()
    rows = rows_of_parts(run, map(part_name, parts.indices))
    places = [place for place, counted in enumerate(rows.values()) if counted and counted["dropped"]]
    again = {part.name: images for part in map(parts.__getitem__, places) if (images := _readable(run, source, part))}
    for name in again:
        forget_part(run, name)
    if again:
        images, of = sum(again.values()), len(again)
        say(f"{images:,} images that were missing can be read now; the {of:,} parts with them are computed again")
    return set(again)


def _readable(run: RunFiles, source: Source, part: Part) -> int:
    """How many of a part's missing images are there now."""
    dropped = run.folder.read_table(f"dropped/{part.name}.parquet", ["image_uid", "reason"])
    missing = set(dropped.filter(pc.equal(dropped["reason"], "image_missing"))["image_uid"].to_pylist())
    places = [place for uid, place in part.images if uid in missing]
    return sum(data is not None for _, data in source.read_images(places)) if places else 0
