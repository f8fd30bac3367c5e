"""`curate inspect PATH`: rows, columns with three values each, where pictures lie, and which shipped manifest fits."""

from pathlib import Path
from typing import Any

import duckdb

from curate.errors import ManifestError, SourceError, WriteError
from curate.inspect.guess import guessed_manifest
from curate.sources.files import expanded
from curate.sources.layouts.members import is_member, list_members, needs_unpacking
from curate.sources.layouts.preparation import VIRTUAL, columns_query, kind_of
from curate.sources.layouts.relation import connect_source, unreadable
from curate.sources.layouts.samples import PICTURES, is_folder_pair
from curate.sources.manifest import BUNDLED, Manifest, load_manifest
from curate.storage.tables import write_text

EXAMPLES = 3
LONGEST_VALUE = 60
NOT_SETS = ("demo", "generic")
PICTURE = "(a picture)"


def inspect(source: str, write: Path | None = None) -> dict[str, Any]:
    """What `source` is: kind, files, rows, columns, pictures found, shipped manifests that read it.

    source: a file, folder, glob or URL. write: a manifest to begin with is written there, its guesses marked.
    Raises: SourceError when nothing of it can be read; WriteError, also when the file is there.

    >>> found = inspect("my_pictures")  # a folder with win/ and lose/
    >>> found["kind"], found["fits"]
    ('folder', ['folders'])
    """
    files, pictures = _tables_in(source)
    kind = kind_of(files[0])
    connection = connect_source(files)
    try:
        rows = connection.execute("select count(*) from source").fetchall()[0][0]
        columns = _columns(connection)
        fits = [manifest.name for manifest in _shipped() if _fits(connection, manifest, columns)]
    except duckdb.Error as error:
        raise unreadable(files, error) from error
    finally:
        connection.close()
    found = {
        "kind": kind, "files": len(files), "first_file": files[0], "source": _named(source, files, kind),
        "rows": rows, "columns": columns,
        "pictures": pictures, "fits": fits,
    }  # fmt: skip
    if write is not None:
        if write.exists():
            raise WriteError(f"{write} is there already; name another file")
        write_text(guessed_manifest(write.stem, files, columns, kind), write)
        found["written"] = str(write)
    return found


def _named(source: str, files: list[str], kind: str) -> str:
    """What to give to --source for all of the files; a folder stands for the Parquet files in it."""
    if len(files) == 1:
        return files[0]
    whole = kind == ".parquet" or "://" in source or not Path(source).is_dir()
    return source if whole else f"{Path(files[0]).parent}/*{kind}"


def _tables_in(source: str) -> tuple[list[str], dict[str, int]]:
    """The files that hold rows, of the kind that most are of; and how many pictures lie in folders and archives."""
    here = Path(source)
    if "://" in source or not here.is_dir():
        files = expanded(source)
        if not files:
            raise SourceError(f"no file matches {source}; name a file, a folder, a glob or a URL")
        return files, {}
    if is_folder_pair(here):
        return [source], {}
    inside = sorted(path for path in here.rglob("*") if path.is_file() and not path.name.startswith("."))
    kinds: dict[str, list[str]] = {}
    for path in inside:
        try:
            kinds.setdefault(kind_of(str(path)), []).append(str(path))
        except SourceError:
            continue
    pictures = _pictures(inside)
    if (tars := kinds.get(".tar")) and len(kinds) > 1:  # they hold the pictures of the table beside them
        kinds.pop(".tar")
        pictures |= {tar: len(list_members(tar)) for tar in tars if not needs_unpacking((tar,))}
    if not kinds:
        raise SourceError(
            f"{source} holds no Parquet, JSON, CSV or tar, and no folders win/ and lose/; "
            f"it holds {len(inside):,} files, {sum(pictures.values()):,} of them pictures"
        )
    return max(kinds.values(), key=len), pictures


def _pictures(inside: list[Path]) -> dict[str, int]:
    """Pictures by folder, and members of zips."""
    found: dict[str, int] = {}
    for path in inside:
        if path.suffix.lower().lstrip(".") in PICTURES:
            found[str(path.parent)] = found.get(str(path.parent), 0) + 1
        elif path.suffix.lower() == ".zip":
            found[str(path)] = len(list_members(str(path)))
    return found


def _columns(connection: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    """Name, type and some values of each column; of pictures in a column there is an address, which is no value."""
    described = connection.execute("describe source").fetchall()
    sample = connection.execute(f"select * from source limit {EXAMPLES}").fetchall()
    found = []
    for place, (name, kind, *_) in enumerate(described):
        values = [row[place] for row in sample]
        inside = all(isinstance(value, str) and is_member(value) for value in values) and bool(values)
        if name not in VIRTUAL:
            shown = [PICTURE] * len(values) if inside else [_short(value) for value in values]
            found.append({"name": name, "type": "BLOB" if inside else kind, "values": shown})
    return found


def _short(value: object) -> str:
    text = "null" if value is None else str(value).replace("\n", " ")
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 1]}…"


def _shipped() -> list[Manifest]:
    return [load_manifest(path.stem) for path in sorted(BUNDLED.glob("*.toml")) if path.stem not in NOT_SETS]


def _fits(connection: duckdb.DuckDBPyConnection, manifest: Manifest, columns: list[dict[str, Any]]) -> bool:
    """Whether a manifest's columns, or all that its query names, are there."""
    try:
        query = manifest.query or columns_query(manifest.columns)
        connection.execute(f"describe {query}")
    except (duckdb.Error, ManifestError):
        return False
    return set(manifest.keep) <= {column["name"] for column in columns} or manifest.query is not None
