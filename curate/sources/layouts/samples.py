"""Sets of files without a table, as one: WebDataset tars with a pair in each sample, and folders of equal names."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from curate.errors import SourceError
from curate.sources.layouts.members import list_members, read_members
from curate.terminal.progress import progress

PICTURES = frozenset(("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "heic", "jxl"))
CAPTIONS = (".txt", ".caption")
PREFERRED_FOLDERS = ("win", "w", "chosen", "preferred", "winner")
REJECTED_FOLDERS = ("lose", "l", "rejected", "loser")
LARGEST_TEXT_BYTES = 1_000_000


def tar_rows(tars: list[str]) -> pa.Table:
    """One row a sample: `__key__`, `filename` (its tar's), and a column for each extension.

    A picture's column holds its address, any other the member's text. Samples are grouped as the webdataset library
    does: members in a row whose names are equal up to the first dot. Raises: SourceError.
    """
    tables = []
    with progress("tars", len(tars)) as advance:
        for tar in tars:
            rows = list(_samples(tar))
            columns = {name: None for row in rows for name in row}
            tables.append(pa.table({name: pa.array([row.get(name) for row in rows], pa.string()) for name in columns}))
            advance(1)
    return pa.concat_tables(tables, promote_options="default")


def _samples(tar: str) -> Iterator[dict[str, str]]:
    from webdataset.tariterators import base_plus_ext

    sample: dict[str, str] = {}
    texts: dict[str, str] = {}
    rows: list[dict[str, str]] = []
    for member in list_members(tar):
        key, extension = base_plus_ext(member.name)
        if key is None:
            continue
        extension = extension.lower()  # as the library does; DuckDB holds jpg and JPG for one column
        if not sample or sample["__key__"] != key or extension in sample:
            sample = {"__key__": key, "filename": tar}
            rows.append(sample)
        sample[extension] = address = member.address(tar)
        if extension.rpartition(".")[2].lower() not in PICTURES and member.size_bytes <= LARGEST_TEXT_BYTES:
            texts[address] = ""
    for address, data in read_members(texts):
        texts[address] = (data or b"").decode("utf-8", "replace")
    for row in rows:
        yield {name: texts.get(value, value) for name, value in row.items()}


def is_folder_pair(folder: str | Path) -> bool:
    """Whether a folder holds one folder of preferred pictures and one of rejected ones."""
    folder = Path(folder)
    return _side(folder, PREFERRED_FOLDERS) is not None and _side(folder, REJECTED_FOLDERS) is not None


def folder_rows(folder: Path) -> pa.Table:
    """One row for each name that either folder has: `name`, `preferred` and `rejected` (paths), `caption`.

    A picture that the other folder lacks has null there. The caption is the text beside the preferred picture, else
    beside the rejected one. Raises: SourceError when a name has two pictures in one folder.
    """
    sides = [_side(folder, names) for names in (PREFERRED_FOLDERS, REJECTED_FOLDERS)]
    pictures: dict[str, list[str | None]] = defaultdict(lambda: [None, None])
    captions: dict[str, str] = {}
    for place, side in enumerate(sides):
        assert side is not None
        for path in sorted(side.rglob("*")):
            name = path.relative_to(side).with_suffix("").as_posix()
            if path.suffix.lower() in CAPTIONS:
                captions.setdefault(name, path.read_text("utf-8-sig", "replace").strip())
            elif path.suffix.lower().lstrip(".") in PICTURES:
                if pictures[name][place] is not None:
                    raise SourceError(f"{path}: another picture of this name lies beside it; keep one of the two")
                pictures[name][place] = str(path)
    names = sorted(pictures)
    return pa.table(
        {
            "name": pa.array(names, pa.string()),
            "preferred": pa.array([pictures[name][0] for name in names], pa.string()),
            "rejected": pa.array([pictures[name][1] for name in names], pa.string()),
            "caption": pa.array([captions.get(name) for name in names], pa.string()),
        }
    )


def _side(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_dir()), None)
