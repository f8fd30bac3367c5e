"""A split's files as a source: those that a manifest or --source names, or those that a run was embedded from."""

from pathlib import Path
from typing import Any

from curate.sources.files import check_unchanged, from_manifest, named_files, picture_roots
from curate.sources.layouts.preparation import ROWS, needs_rows, preparation_of, rows_place
from curate.sources.manifest import Manifest
from curate.sources.parquet import Source
from curate.storage.folder import Folder
from curate.terminal.progress import say


def open_source(
    manifest: Manifest,
    split_name: str | None,
    override: list[str] | None = None,
    images: tuple[str, ...] = (),
    unpack: Path | None = None,
    dimension: str | None = None,
) -> Source:
    """Resolve a split's files; `override` (from --source) replaces them, relative to the current folder.

    images: replaces the manifest's. unpack: where compressed and split archives are unpacked.
    Raises: SourceError when nothing matches.
    """
    name, split = manifest.split(split_name)
    patterns = override or [from_manifest(pattern, manifest) for pattern in split.files]
    files = named_files(patterns)
    preparation = None
    if needs_rows(manifest, files, images):
        roots = images or tuple(from_manifest(root, manifest) for root in manifest.images)
        roots = tuple(found for root in roots for found in picture_roots(root))
        preparation = preparation_of(manifest, tuple(files), roots, unpack)
    stated = None if override else split.rows
    return Source(
        manifest, name, tuple(files), stated, preparation=preparation, dimension=dimension or manifest.dimension
    )


def reopen_source(settings: dict[str, Any], folder: Folder, moved: dict[str, str] | None = None) -> Source:
    """The files that a run was embedded from, by its run.toml. Raises SourceError when one is gone or changed.

    moved: where each lies now, where that is elsewhere.

    A file of the same size with another time of change is a note only: this is for readers that compare each
    image's sha256 with the run's.
    """
    for file, recorded in settings["files"].items():
        if (note := check_unchanged(file, recorded, moved)) is not None:
            say(f"note: {note}; each image is compared with the sha256 of the one that was scored")
    return recorded_source(settings, folder, moved)


def recorded_source(settings: dict[str, Any], folder: Folder, moved: dict[str, str] | None = None) -> Source:
    """The same without a look at the files: for readers that can do without one of them."""
    stated, split = settings["manifest"], settings["split"]
    columns = {name: name for side in (0, 1) for name in (f"image_{side}_uid", f"image_{side}_path")}
    prepared = "rows" in stated
    manifest = Manifest(stated["name"], Path(stated["name"]), columns if prepared else stated["columns"], {}, split)
    if prepared:
        return Source(manifest, split, (ROWS,), None, rows_file=rows_place(folder))
    return Source(manifest, split, tuple(settings["files"]), None, places=moved or {})
