"""What is to be read of a set that is no Parquet of pairs, and where its rows lie. Light: nothing here loads DuckDB."""

import hashlib
import json
import os
import pickle
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow.parquet as pq

from curate.errors import SourceError, nearest
from curate.sources.layouts.members import needs_unpacking
from curate.sources.manifest import Candidates, Manifest
from curate.storage.files import file_sha256
from curate.storage.folder import Folder
from curate.storage.run import RunFiles, marker_file, part_rows
from curate.terminal.progress import say

ROWS, ROWS_MARKER = "rows.parquet", "rows"
ARCHIVES = (".tar", ".zip")
VIRTUAL = ("filename", "source_filename", "file_row_number")  # of `source`, whatever the files hold
FOLDER = "folder"
COMPRESSED = (".gz", ".zst", ".bz2", ".xz")
KINDS = (".parquet", ".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".tar")


@dataclass(frozen=True)
class Preparation:
    """What is to be read: the manifest's query or columns over `files`, and the root of its relative paths.

    where: what errors name, a manifest's file name. images: folders, URLs, zips or tars; empty: beside the files.
    """

    where: str
    files: tuple[str, ...]
    sql: str
    images: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    candidates: Candidates | None = None
    unpack: Path | None = None

    @property
    def inputs(self) -> tuple[str, ...]:
        """What decides the rows: the tables, and archives of pictures."""
        return (*self.files, *(root for root in self.images if is_archive(root)))


def needs_rows(manifest: Manifest, files: list[str], images: tuple[str, ...]) -> bool:
    """Whether a set is to be brought to rows of ours first; Parquet whose columns are named is read as it lies."""
    special = manifest.query or manifest.candidates or manifest.images or images
    return bool(special) or any(kind_of(file, strict=False) != ".parquet" for file in files)


def preparation_of(
    manifest: Manifest, files: tuple[str, ...], images: tuple[str, ...], unpack: Path | None
) -> Preparation:
    """What a manifest asks for. Raises: SourceError for two folders, and for an archive without an `unpack`."""
    packed = [file for file in (*files, *images) if needs_unpacking((file,))]
    if packed and unpack is None:
        raise SourceError(
            f"{packed[0]} must be read from its start to find a picture; name a folder with --unpack DIR, where it is "
            "unpacked once"
        )
    folders = [root for root in images if not is_archive(root)]
    if len(folders) > 1:
        raise SourceError(f"{' and '.join(folders[:2])}: paths start in one folder; name the one above them")
    sql = manifest.query or columns_query(manifest.columns, manifest.keep)
    return Preparation(manifest.path.name, files, sql, images, manifest.keep, manifest.candidates, unpack)


def ready_rows(preparation: Preparation, settings: dict[str, Any], folder: Folder) -> str:
    """Where the rows lie in `folder`: those of an earlier call under the same settings, or written now.

    In a process of its own, so that what DuckDB takes is given back before models are loaded. Raises: SourceError,
    QueryError, WriteError.
    """
    made_of = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()
    if not _are_there(folder, made_of):
        with folder.alone():  # others that share the run wait, and then read the same
            if not _are_there(folder, made_of):
                _make_rows(preparation, made_of, folder)
    return rows_place(folder)


def _are_there(folder: Folder, made_of: str) -> bool:
    """By their marker, as a part is: every byte, or at a URL as many."""
    sound = part_rows(RunFiles(folder), ROWS_MARKER, hashed=not folder.remote) is not None
    return sound and json.loads(folder.read(marker_file(ROWS_MARKER)))[ROWS].get("made_of") == made_of


def _make_rows(preparation: Preparation, made_of: str, folder: Folder) -> None:
    say(f"reading {len(preparation.files):,} files as rows of pairs")
    code = "from curate.sources.layouts.prepare import main; main()"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    task = pickle.dumps((preparation, made_of, folder.absolute()))
    done = subprocess.run([sys.executable, "-c", code], input=task, stdout=subprocess.PIPE, env=environment)
    if done.returncode:
        raise SourceError(f"{preparation.where}: reading its files ended with exit code {done.returncode}; see above")
    failed = pickle.loads(done.stdout)  # noqa: S301 -- from the process above
    if failed is not None:
        raise failed


def keep_rows(rows: Path, made_of: str, folder: Folder) -> None:
    """Into the run, with a marker, unless another process was faster, which nothing keeps from it at a URL."""
    if not _are_there(folder, made_of):
        counted = {"rows": pq.read_metadata(rows).num_rows, "bytes": rows.stat().st_size, "sha256": file_sha256(rows)}
        folder.write(ROWS, rows.read_bytes())
        marker = json.dumps({ROWS: counted | {"made_of": made_of}}, indent=2) + "\n"
        folder.write(marker_file(ROWS_MARKER), marker.encode("utf-8"))


def rows_place(folder: Folder) -> str:
    """Where a run in `folder` has its rows."""
    return f"{folder.absolute()}/{ROWS}"


def kind_of(file: str, strict: bool = True) -> str:
    """`.parquet`, `.json`, `.csv`, `.tar` or `folder`, by a file's name; of any other a SourceError, or Parquet."""
    if "://" not in file and Path(file).is_dir():
        return FOLDER
    name = urlsplit(file).path if "://" in file else file
    endings = [ending.lower() for ending in Path(name).suffixes if ending.lower() not in COMPRESSED]
    ending = endings[-1] if endings else ""
    if ending in KINDS:
        return ending
    if not strict:
        return ".parquet"
    raise SourceError(f"{file}: files are read by the end of their name{nearest(ending, KINDS)}")


def is_archive(root: str) -> bool:
    """Whether a root is a zip or a tar, compressed or in pieces, too."""
    return root.lower().endswith(ARCHIVES) or needs_unpacking((root,))


def columns_query(columns: dict[str, str], keep: tuple[str, ...] = ()) -> str:
    """A manifest's [columns] as the query that it stands for; a picture's bytes are met as its address."""
    columns = {ours.replace("_bytes", "_path"): theirs for ours, theirs in columns.items()} | {own: own for own in keep}
    return f"select {', '.join(f'{quoted(theirs)} as {quoted(ours)}' for ours, theirs in columns.items())} from source"


def quoted(name: str) -> str:
    """A SQL identifier."""
    return '"' + name.replace('"', '""') + '"'
