"""A run: where its tables lie, under which settings they were made, and which parts are sound."""

import glob
import json
import tomllib
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa
import tomli_w

from curate.errors import RunError, nearest
from curate.storage.folder import Folder, LocalFolder
from curate.storage.threads import in_threads
from curate.storage.url_folder import folder_at
from curate.terminal.progress import say
from schemas.runs import RUN, SETTINGS_FILE, runs_near

if TYPE_CHECKING:
    import duckdb
    import polars as pl

SUMMARY_FILE = "embed.json"
PAIRS_FILE = "pairs.parquet"
PARTS = "parts"
PART_TABLES = ("images", "prompts", "scores", "dropped")
PLAN = "plan"
"""Name of the marker of what the plan alone decides: the pairs, and those left out."""
HASHING_THREADS = 8


@dataclass(frozen=True)
class RunFiles:
    """The files of one run, in a folder of this machine or at a URL; `Run` is the former."""

    folder: Folder

    def settings(self) -> dict[str, Any]:
        """What run.toml states. Raises RunError when there is no embedded run here."""
        try:
            stated = tomllib.loads(self.folder.read(SETTINGS_FILE).decode("utf-8"))
            if "settings" not in stated:
                raise ValueError("no [settings]")
            return stated
        except (FileNotFoundError, NotADirectoryError) as error:
            near = "" if self.folder.remote else runs_near(Path(str(self.folder)))
            raise RunError(f"no run in {self.folder}; run `curate embed --run {self.folder}` first{near}") from error
        except (OSError, ValueError) as error:
            raise RunError(
                f"{self.folder}/{SETTINGS_FILE} is damaged ({error}); delete {self.folder} and run `curate embed` again"
            ) from error

    def is_begun(self) -> bool:
        """Whether settings are stated here."""
        return self.folder.size(SETTINGS_FILE) is not None

    def locked(self, shared: bool = False) -> AbstractContextManager[None]:
        """Hold the folder while it is written, alone or with others that share it, too; at a URL all share.

        The lock goes with the process, however it ends. Raises: RunError when another process is in the way.
        """
        return self.folder.locked(shared)

    def alone(self) -> AbstractContextManager[None]:
        """For the moment that a file takes which several processes may write: each waits for its turn.

        At a URL there are no turns; see `write_part` and `claim` for what keeps processes apart there.
        """
        return self.folder.alone()

    def refuse_other(self, settings: dict[str, Any]) -> bool:
        """Compare with run.toml what of the settings is known; False when there is no run.toml yet.

        Raises: RunError naming the first setting that differs, its value then and now.
        """
        if not self.is_begun():
            return False
        stated = self.settings()["settings"]
        difference = first_difference({key: stated[key] for key in settings if key in stated}, settings)
        if difference is not None:
            key, before, now = difference
            raise RunError(
                f"{self.folder} was made under other settings: {key} was {before!r}, now {now!r}; "
                f"use another --run, or delete {self.folder}"
            )
        return True

    def claim(self, settings: dict[str, Any], info: dict[str, Any]) -> bool:
        """Write run.toml, or check that it was written under the same settings. True when it was there.

        Raises: RunError as `refuse_other` does.
        """
        text = tomli_w.dumps({"settings": settings, "info": info})
        with self.alone():
            there = self.refuse_other(settings) or not self.folder.create(SETTINGS_FILE, text.encode("utf-8"))
        # At a URL another process may have been the first to create it, whose settings then count.
        return there and self.refuse_other(settings)

    def note_moved(self, places: dict[str, str]) -> None:
        """Where each file of the source lies now, where that is not where run.toml's settings say: `moved`."""
        with self.alone():
            stated = self.settings()
            if stated.get("moved", {}) != places:
                self.folder.write(SETTINGS_FILE, tomli_w.dumps(stated | {"moved": places}).encode("utf-8"))

    def mark_finished(self, summary: dict[str, Any]) -> None:
        """Record that every part is there; ranking waits for it."""
        self.folder.write(SUMMARY_FILE, (json.dumps(summary, indent=2) + "\n").encode("utf-8"))

    def mark_unfinished(self) -> None:
        """Parts are to be computed (again): until they are, ranking must not read the others as if they were all."""
        self.folder.remove(SUMMARY_FILE)

    def summary(self) -> dict[str, Any]:
        """What `curate embed` counted. Raises RunError when it has not finished."""
        self.settings()
        try:
            summary = json.loads(self.folder.read(SUMMARY_FILE))
            if not isinstance(summary, dict) or "pairs" not in summary:
                raise ValueError("it counts no pairs")
            return summary
        except FileNotFoundError as error:
            raise RunError(
                f"`curate embed` has not finished in {self.folder}; run it again, it goes on where it stopped"
            ) from error
        except (OSError, ValueError) as error:
            raise RunError(f"{self.folder}/{SUMMARY_FILE} is damaged ({error}); run `curate embed` again") from error

    def absolute(self) -> "RunFiles":
        """The same from any working directory, such as that of a worker on another machine."""
        return RunFiles(self.folder.absolute())


class Run(RunFiles):
    """A run directory of this machine: what DuckDB reads, and every command but `embed` and `status` needs."""

    def __init__(self, root: Path) -> None:
        super().__init__(LocalFolder(root))

    @property
    def root(self) -> Path:
        """The directory."""
        return cast(LocalFolder, self.folder).path

    @property
    def pairs(self) -> Path:
        """The one file of the pairs table."""
        return self.root / PAIRS_FILE

    @property
    def tags(self) -> Path:
        """The file of the tags that people gave pairs; it may not be there."""
        return self.root / "tags.parquet"

    def table(self, name: str) -> Path:
        """Folder of a table written in parts."""
        return self.root / name

    def frame(self, name: str) -> "pl.DataFrame":
        """A table, `ranking` or `ranking_NAME` as a polars frame. Raises RunError, naming what there is."""
        import polars as pl

        return pl.read_parquet(self._files_of(name), glob=False, hive_partitioning=False)

    def relation(self, name: str) -> "duckdb.DuckDBPyRelation":
        """The same for SQL: a relation over the files, which DuckDB reads as far as a query needs them."""
        import duckdb

        files = [glob.escape(str(path)) for path in self._files_of(name)]
        return duckdb.read_parquet(files, hive_partitioning=False)

    def _files_of(self, name: str) -> list[Path]:
        there = {
            "pairs": [self.pairs],
            "tags": [self.tags],
            **{table: sorted(self.table(table).glob("*.parquet")) for table in PART_TABLES},
            **{f"ranking_{path.stem}": [path] for path in sorted(self.rankings.glob("*.parquet"))},
        }
        found = there.get("ranking_default" if name == "ranking" else name)
        if not found or not found[0].exists():
            raise RunError(f"{self.root} has no table '{name}'{nearest(name, there)}")
        return found

    @property
    def rankings(self) -> Path:
        """Folder of named rankings."""
        return self.root / "rankings"

    @property
    def database(self) -> Path:
        """DuckDB file with a view over every table."""
        return self.root / "curation.duckdb"


def open_run(path: str | Path = RUN) -> Run:
    """A run directory of this machine, there already or to be made by `embed`.

    >>> open_run("run").frame("pairs").columns[:2]
    ['pair_id', 'prompt_id']
    >>> open_run("run").relation("scores").aggregate("count(*) > 0").fetchall()
    [(True,)]
    """
    return Run(Path(path))


def run_at(location: str) -> RunFiles:
    """The run at a path or URL; file:// is a path. Raises: UsageError for a URL of an unknown kind."""
    folder = folder_at(location)
    return Run(folder.path) if isinstance(folder, LocalFolder) else RunFiles(folder)


def write_part(run: RunFiles, name: str, files: dict[str, tuple[pa.Table, pa.Schema]]) -> None:
    """Write a part's tables, then its marker with each file's rows, bytes and sha256: the marker is the commit.

    Of processes that write the same part to a URL at once, the first to write a file stays, and each one's marker
    says what stands. Where the file system cannot create exclusively (`Folder.create`), two that write one file within
    the same moment leave a marker that may be the other's: a part of another size is found at the next start, one of
    other bytes by `curate fetch`. On the CPU equal parts have equal bytes, and nothing can differ.
    """
    write_files(run, name, {f"{table_name}/{name}.parquet": content for table_name, content in files.items()})


def write_plan(run: RunFiles, pairs: tuple[pa.Table, pa.Schema], dropped: tuple[pa.Table, pa.Schema]) -> None:
    """The tables that no tower is needed for, with a marker of their own."""
    rows = {PAIRS_FILE: pairs[0].num_rows, "dropped": dropped[0].num_rows}
    if run.folder.remote and part_rows(run, PLAN, hashed=False) == rows:
        return  # equal plans are equal files, and these travel
    write_files(run, PLAN, {PAIRS_FILE: pairs, f"dropped/{PLAN}.parquet": dropped})


def write_files(run: RunFiles, name: str, files: dict[str, tuple[pa.Table, pa.Schema]]) -> None:
    """Tables by file, then the marker that names them."""
    entries = {
        file: {"rows": table.num_rows} | run.folder.write_table(table, file, schema)
        for file, (table, schema) in files.items()
    }
    run.folder.write(marker_file(name), (json.dumps(entries, indent=2) + "\n").encode("utf-8"))


def part_rows(
    run: RunFiles, name: str, hashed: bool = True, size: Callable[[str], int | None] | None = None
) -> dict[str, int] | None:
    """Rows of each table of a part that is there and sound; None when it must be computed (again).

    hashed: read every byte; otherwise the files' sizes must do. size: how to ask for them, where many are asked for.
    """
    size = size or run.folder.size
    try:
        entries = dict(json.loads(run.folder.read(marker_file(name))))
        sound = all(size(file) == entry["bytes"] for file, entry in entries.items()) and (
            not hashed or all(run.folder.sha256(file) == entry["sha256"] for file, entry in entries.items())
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return {file.split("/")[0]: entry["rows"] for file, entry in entries.items()} if entries and sound else None


def rows_of_parts(
    run: RunFiles, names: Iterable[str], hashed: bool = False, size: Callable[[str], int | None] | None = None
) -> dict[str, dict[str, int] | None]:
    """`part_rows` of many parts; not hashed, by their files' sizes."""
    size_of = size or _sizes(run)

    def rows(name: str) -> tuple[str, dict[str, int] | None]:
        return name, None if size_of(marker_file(name)) is None else part_rows(run, name, hashed, size_of)

    return dict(in_threads(rows, names, HASHING_THREADS))  # sha256 runs without the GIL, and URLs take their time


def sound_parts(run: RunFiles, names: Iterable[str], hashed: bool = True) -> set[str]:
    """Which of the named parts are there with every byte as it was written, or, not hashed, with as many bytes.

    The damaged are named on stderr and lose their marker, and the run is unfinished until they are computed again.
    """
    names = list(names)
    size = run.folder.size if len(names) == 1 else _sizes(run)
    found = rows_of_parts(run, names, hashed, size)
    for name in [name for name, rows in found.items() if rows is None and size(marker_file(name)) is not None]:
        found[name] = part_rows(run, name, hashed)
        if found[name] is not None:
            continue  # another process has written it meanwhile
        say(f"{run.folder}: {name} is damaged, not as its marker {marker_file(name)} says; it is computed again")
        forget_part(run, name)
    return {name for name, rows in found.items() if rows is not None}


def _sizes(run: RunFiles) -> Callable[[str], int | None]:
    """Markers before tables: what is written meanwhile has no marker yet."""
    return run.folder.sizes(PARTS, *PART_TABLES)


def first_difference(before: Any, now: Any, prefix: str = "") -> tuple[str, Any, Any] | None:
    """The first key at which two nested settings differ, with both values; None when they are equal.

    A setting that `before` lacks and that is off or empty now is none: an earlier version did not know it.
    """
    if isinstance(before, dict) and isinstance(now, dict):
        for key in [*before, *(key for key in now if key not in before and now[key])]:
            found = first_difference(before.get(key), now.get(key), f"{prefix}.{key}" if prefix else key)
            if found is not None:
                return found
        return None
    return None if before == now else (prefix, before, now)


def marker_file(name: str) -> str:
    """Where a part's marker lies."""
    return f"{PARTS}/{name}.json"


def forget_part(run: RunFiles, name: str) -> None:
    """The run is unfinished: remove a part's marker, and at a URL its files, which would stay as the first ones.

    Should another process write them anew at this very moment, its part is incomplete, and is found to be so.
    """
    run.mark_unfinished()
    run.folder.remove(marker_file(name))
    if run.folder.remote:
        for table in PART_TABLES:
            run.folder.remove(f"{table}/{name}.parquet")
