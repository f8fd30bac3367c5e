"""Tags that people give pairs, such as `exclude`: the table `tags` of the run, which any query of it can use."""

import re

import pyarrow as pa
import pyarrow.parquet as pq

from curate.errors import RunError
from curate.storage.run import Run
from curate.storage.tables import rows_table, write_table
from schemas.tables import TAGS

_TAG = re.compile(r"\w[\w.-]{0,39}")


def is_tag(text: str) -> bool:
    """Letters, digits, `_`, `.` and `-`; at most 40."""
    return _TAG.fullmatch(text) is not None


def tags_of(run: Run, pair_ids: list[str]) -> dict[str, list[str]]:
    """The tags of each of the pairs. Raises: RunError."""
    found: dict[str, list[str]] = {pair_id: [] for pair_id in pair_ids}
    for pair_id, tag in _read(run):
        if pair_id in found:
            found[pair_id].append(tag)
    return found


def set_tag(run: Run, pair_id: str, tag: str, on: bool) -> list[str]:
    """Give a pair a tag, or take it away; the tags it has then. Raises: RunError, WriteError."""
    with run.folder.alone():
        rows = set(_read(run)) - {(pair_id, tag)} | ({(pair_id, tag)} if on else set())
        found = [dict(zip(TAGS.names, row, strict=True)) for row in sorted(rows)]
        write_table(rows_table(found, TAGS), run.tags, TAGS)
    return sorted(name for pair, name in rows if pair == pair_id)


def _read(run: Run) -> list[tuple[str, str]]:
    try:
        table = pq.read_table(run.tags, schema=TAGS, partitioning=None)
    except FileNotFoundError:
        return []
    except (OSError, pa.ArrowInvalid) as error:
        raise RunError(f"{run.tags} cannot be read ({error}); mend it, or move it away") from error
    return list(zip(*table.to_pydict().values(), strict=True))
