"""Any layout as one table of pairs: a manifest's query over its files, checked, its pictures found, written once.

What comes out is a Parquet file under our own names, with each picture's address in place of its bytes; from there on
it is read as any other set.
"""

import hashlib
import os
import pickle
import re
import sys
from collections.abc import Iterable
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import pyarrow as pa

from curate.database.connection import first_line, literal
from curate.database.queries import query_text
from curate.database.user_sql import one_select
from curate.errors import CurateError, SourceError, nearest
from curate.sources.layouts.members import list_members, needs_unpacking, read_members, unpacked
from curate.sources.layouts.preparation import (
    FOLDER,
    ROWS,
    VIRTUAL,
    Preparation,
    is_archive,
    keep_rows,
    kind_of,
    quoted,
)
from curate.sources.layouts.relation import connect_source
from curate.terminal.progress import say
from schemas.manifests import CANDIDATE_COLUMNS, COLUMN_KEYS

HASHED_TOGETHER = 4_096
TEXTS = ("prompt", "category", "dimension", "image_0_model", "image_1_model", "image_model", "image_group")
NUMBERS = ("rank", "rating", "votes_0", "votes_1", "share_0")


def main() -> None:
    """What `preparation.ready_rows` runs in a process of its own: reads its task from stdin, answers on stdout."""
    preparation, made_of, folder = pickle.load(sys.stdin.buffer)  # noqa: S301 -- from the process that began this one
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no part of the answer
    failed: CurateError | None = None
    try:
        with TemporaryDirectory() as temporary:
            rows = Path(temporary) / ROWS
            write_rows(_unpacked(preparation), rows)
            keep_rows(rows, made_of, folder)
    except CurateError as error:
        failed = error
    with answer:
        pickle.dump(failed, answer)


def _unpacked(preparation: Preparation) -> Preparation:
    """The same with each archive that needs it unpacked; pieces of one are one."""
    if preparation.unpack is None:
        return preparation
    packed = tuple(root for root in preparation.images if needs_unpacking((root,)))
    images = tuple(root for root in preparation.images if root not in packed)
    for _, pieces in groupby(sorted(packed), key=lambda root: re.split(r"\.(?:tar|tgz)", root, maxsplit=1)[0]):
        images += (unpacked(tuple(pieces), preparation.unpack),)
    files = tuple(
        unpacked((file,), preparation.unpack) if needs_unpacking((file,)) else file for file in preparation.files
    )
    return replace(preparation, files=files, images=images)


def write_rows(preparation: Preparation, path: Path) -> dict[str, int]:
    """Write the pairs' rows to `path`; counts by reason of the candidates that made no pair.

    Raises: SourceError and QueryError, before anything is read where that can be; the file is whole or not there.
    """
    partial = path.with_name(f"{path.name}.partial")
    spill = path.with_name(f"{path.name}.spill")
    connection = connect_source(list(preparation.files), spill, (str(partial),))
    try:
        body = one_select(connection, preparation.sql, {}, preparation.where)
        columns = _checked_columns(connection, body, preparation)
        left_out: dict[str, int] = {}
        if preparation.candidates is not None:
            left_out = _pair_candidates(connection, body, columns, preparation)
            body, columns = (
                "from pairs_of_candidates",
                dict.fromkeys(_names(connection, "from pairs_of_candidates"), "VARCHAR"),
            )
        joined = _find_pictures(connection, body, columns, preparation)
        query = _final(body, columns, preparation, joined, _own_keys(connection, preparation))
        connection.execute(f"copy ({query}) to {literal(str(partial))} (format parquet, compression zstd)").fetchall()
    except duckdb.Error as error:
        words = first_line(error).rstrip(". ")
        raise SourceError(f"{preparation.where}: {words}; correct it, or the file") from error
    finally:
        connection.close()
    partial.replace(path)
    return left_out


def _names(connection: duckdb.DuckDBPyConnection, body: str) -> list[str]:
    return [name for name, *_ in connection.execute(f"describe {body}").fetchall()]


def _checked_columns(connection: duckdb.DuckDBPyConnection, body: str, preparation: Preparation) -> dict[str, str]:
    """The query's columns with their types. Raises: SourceError for one that is missing, unknown or of no use."""
    try:
        described = connection.execute(f"describe {body}").fetchall()
    except duckdb.Error as error:
        raise SourceError(f"{preparation.where}: {error}") from error
    columns = {
        name: column_type for name, column_type, *_ in described if name not in VIRTUAL or name in preparation.keep
    }
    own = CANDIDATE_COLUMNS if preparation.candidates else COLUMN_KEYS
    for name, column_type in columns.items():
        if name not in own and name not in preparation.keep:
            hint = f"{nearest(name, own)}; to have it beside the pairs, list it under keep"
            raise SourceError(f"{preparation.where}: the query returns a column '{name}' that is not known{hint}")
        if name in NUMBERS and column_type == "BOOLEAN":
            raise SourceError(f"{preparation.where}: column '{name}' holds {column_type}, it needs numbers")
        if name.endswith("_path") and ("BLOB" in column_type or column_type.startswith("STRUCT")):
            raise SourceError(
                f"{preparation.where}: column '{name}' holds {column_type}, it needs paths; pictures in "
                "a column are read where each row has one"
            )
    needed = ["prompt", "image_path"] if preparation.candidates else ["prompt", "image_0_path", "image_1_path"]
    if preparation.candidates and not {"rank", "rating"} & set(columns):
        needed.append("rank")
    for name in [*needed, *preparation.keep]:
        if name not in columns:
            raise SourceError(f"{preparation.where}: the query returns no column '{name}'{nearest(name, columns)}")
    return columns


def _pair_candidates(
    connection: duckdb.DuckDBPyConnection, body: str, columns: dict[str, str], preparation: Preparation
) -> dict[str, int]:
    """The table `pairs_of_candidates`; and how many pictures and groups made none, by reason."""
    wide = [f"unnest({name}) as {name}" if columns[name].endswith("[]") else name for name in columns]
    level = "rank" if "rank" in columns else "-rating"
    given = {name: name if name in columns else f"null::varchar as {name}" for name in ("image_model", "category")}
    group, uid = (
        ("image_group" if "image_group" in columns else "prompt"),
        "image_uid" if "image_uid" in columns else "image_path",
    )
    connection.execute(f"create temp table told as select {', '.join(wide)} {body}")
    level = f"case when isfinite(({level})::double) then ({level})::double end"
    connection.execute(
        f"""create temp table candidates as
        select prompt, {group}::varchar as image_group, {uid}::varchar as image_uid, image_path, {given["image_model"]},
            {given["category"]},
            case when {level} is not null
                then dense_rank() over (partition by {group} order by {level} nulls last) end as level
        from told"""
    )
    assert preparation.candidates is not None
    parameters = {"rule": preparation.candidates.rule, "per_prompt": preparation.candidates.per_prompt}
    connection.execute(f"create temp table pairs_of_candidates as {query_text('sources/candidate_pairs')}", parameters)
    counted = connection.execute(query_text("sources/candidates_left_out")).fetchall()
    left_out = {reason: count for reason, count in counted if count}
    if left_out:
        words = ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in left_out.items())
        say(f"candidates that make no pair: {words}")
    return left_out


def _find_pictures(
    connection: duckdb.DuckDBPyConnection, body: str, columns: dict[str, str], preparation: Preparation
) -> bool:
    """The tables `members` (name, address) of archives named as roots, and `hashes` of cells without a uid.

    False when both are empty. Raises: SourceError, also where equal relative paths may be different pictures.
    """
    folders = {file.rpartition("/")[0] for file in preparation.files}
    if not preparation.images and len(folders) > 1:
        paths = " union all ".join(
            f"select image_{side}_path::varchar as path from (select * {body})" for side in (0, 1)
        )
        relative = connection.execute(f"select path from ({paths}) where {_is_relative('path')} limit 1").fetchall()
        if relative:
            raise SourceError(
                f"{preparation.where}: the files lie in {len(folders)} folders and hold relative paths, such as "
                f"'{relative[0][0]}'; say by --images where these start, or read one folder"
            )
    members: dict[str, str] = {}
    for root in preparation.images:
        if is_archive(root):
            for member in list_members(root):
                if members.setdefault(member.name, member.address(root)) != member.address(root):
                    raise SourceError(f"'{member.name}' is in two of the archives, {root} the second; name one of them")
    connection.register("members", _text_table(name=members.keys(), address=members.values()))
    cells_in = kind_of(preparation.files[0]) == ".parquet"
    unnamed = [side for side in (0, 1) if cells_in and f"image_{side}_uid" not in columns]
    cells = " union ".join(
        f"select image_{side}_path as address from (select * {body}) where contains(image_{side}_path, '.parquet::')"
        for side in unnamed
    )
    addresses = [row[0] for row in connection.execute(f"{cells} order by address").fetchall()] if cells else []
    hashes: dict[str, str] = {}
    for start in range(0, len(addresses), HASHED_TOGETHER):
        for address, data in read_members(addresses[start : start + HASHED_TOGETHER]):
            if data is not None:
                hashes[address] = hashlib.sha256(data).hexdigest()
    connection.register("hashes", _text_table(address=hashes.keys(), sha256=hashes.values()))
    return bool(members or hashes)


def _text_table(**columns: Iterable[str]) -> pa.Table:
    return pa.table({name: pa.array(list(values), pa.string()) for name, values in columns.items()})


def _own_keys(connection: duckdb.DuckDBPyConnection, preparation: Preparation) -> bool:
    """Whether the files are tars in all of which no two samples have one key."""
    counted = "select count(*) = count(distinct __key__) from source"
    return kind_of(preparation.files[0]) == ".tar" and bool(connection.execute(counted).fetchall()[0][0])


def _final(body: str, columns: dict[str, str], preparation: Preparation, joined: bool, own_keys: bool) -> str:
    """The rows under our names, each picture by its address, in the query's order; joined: where tables hold some."""
    selected = [_cast(name, columns[name]) for name in columns if not name.endswith(("_path", "_uid", "_group"))]
    joins, order = "", " order by rows.place" if joined else ""
    for side in (0, 1):
        path = f"rows.image_{side}_path::varchar"
        named = f"rows.image_{side}_uid::varchar" if f"image_{side}_uid" in columns else "null"
        sha256, member = (f"hash_{side}.sha256", f"member_{side}.address") if joined else ("null", "null")
        selected.append(f"coalesce({named}, {sha256}, {_known_as(path, preparation, own_keys)}) as image_{side}_uid")
        selected.append(f"{_address(path, member, preparation)} as image_{side}_path")
        if joined:
            joins += (
                f" left join hashes as hash_{side} on hash_{side}.address = {path}"
                f" left join members as member_{side} on member_{side}.name = regexp_replace({path}, '^(\\./)+', '')"
            )
    numbered = f"(select *, row_number() over () as place {body})" if joined else f"({body})"
    return f"select {', '.join(selected)} from {numbered} as rows{joins}{order}"


def _known_as(path: str, preparation: Preparation, own_keys: bool) -> str:
    """SQL: a picture's path without the place of the set, which may move: of a folder pair, or of tars with samples.

    own_keys: each sample's key is its own in all tars; then its tar is left out too, and they may be cut anew.
    """
    files = preparation.files
    if kind_of(files[0]) == FOLDER and len(files) == 1:
        return f"replace({path}, {literal(files[0].rstrip('/') + '/')}, '')"
    if own_keys or len({file.rpartition("/")[2] for file in files}) == len(files):
        tar = r"[^/]*\.tar::(" if own_keys else r"([^/]*\.tar::"
        return rf"regexp_replace({path}, '^(?:.*/)?{tar}.*)@\d+\+\d+$', '\1', 'si')"
    return path


def _address(path: str, member: str, preparation: Preparation) -> str:
    """SQL: a path from its root, or the member that it names; what is an address already stays."""
    folders = [root for root in preparation.images if not is_archive(root)]
    beside = (
        preparation.files[0] if kind_of(preparation.files[0]) == FOLDER else preparation.files[0].rpartition("/")[0]
    )
    root = folders[0] if folders else beside
    otherwise = "null" if preparation.images and not folders else f"{literal(root.rstrip('/') + '/')} || {path}"
    return (
        f"case when {path} = '' then null when {_is_relative(path)} "
        f"then coalesce({member}, {otherwise}) else {path} end"
    )


def _is_relative(path: str) -> str:
    """SQL: whether a path is to be looked for below a root."""
    return f"not (contains({path}, '://') or starts_with({path}, '/') or contains({path}, '::'))"


def _cast(name: str, column_type: str) -> str:
    if column_type == "JSON":  # of several types: text is met without its quotes
        return f"rows.{quoted(name)} ->> '$' as {quoted(name)}"
    if name in TEXTS:
        return f"rows.{quoted(name)}::varchar as {quoted(name)}"
    return f"rows.{quoted(name)}"
