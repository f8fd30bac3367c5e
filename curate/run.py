"""A run directory: where its tables lie, under which settings they were made, and which parts are sound."""

import fcntl
import json
import tomllib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import tomli_w

from curate.errors import RunError, WriteError
from curate.model_set import file_sha256
from curate.progress import say
from curate.tables import write_table, write_text, writing

SETTINGS_FILE = "run.toml"
SUMMARY_FILE = "embed.json"
HASHING_THREADS = 8


@dataclass(frozen=True)
class Run:
    """Paths of one run directory."""

    root: Path

    @property
    def pairs(self) -> Path:
        """The one file of the pairs table."""
        return self.root / "pairs.parquet"

    def table(self, name: str) -> Path:
        """Folder of a table written in parts."""
        return self.root / name

    @property
    def rankings(self) -> Path:
        """Folder of named rankings."""
        return self.root / "rankings"

    @property
    def database(self) -> Path:
        """DuckDB file with a view over every table."""
        return self.root / "curation.duckdb"

    def settings(self) -> dict[str, Any]:
        """What run.toml states. Raises RunError when there is no embedded run here."""
        path = self.root / SETTINGS_FILE
        try:
            stated = tomllib.loads(path.read_text(encoding="utf-8"))
            if "settings" not in stated:
                raise ValueError("no [settings]")
            return stated
        except (FileNotFoundError, NotADirectoryError) as error:
            raise RunError(f"no run in {self.root}; run `curate embed --run {self.root}` first") from error
        except (OSError, ValueError) as error:
            raise RunError(f"{path} is damaged ({error}); delete {self.root} and run `curate embed` again") from error

    @contextmanager
    def locked(self, shared: bool = False) -> Iterator[None]:
        """Hold the directory while it is written, alone or with others that share it, too.

        The lock goes with the process, however it ends. Raises: RunError when another process is in the way.
        """
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        with self._flock(".lock", kind | fcntl.LOCK_NB):
            yield

    @contextmanager
    def alone(self) -> Iterator[None]:
        """For the moment that a file takes which several processes may write: each waits for its turn."""
        with self._flock(".turn", fcntl.LOCK_EX):
            yield

    @contextmanager
    def _flock(self, name: str, kind: int) -> Iterator[None]:
        with writing(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            stream = (self.root / name).open("w")
        with stream:
            try:
                with writing(self.root):
                    fcntl.flock(stream, kind)
            except WriteError as error:
                if not isinstance(error.__cause__, BlockingIOError):
                    raise
                raise RunError(
                    f"another process is writing to {self.root}; wait for it, or use another --run"
                ) from error
            yield

    def refuse_other(self, settings: dict[str, Any]) -> bool:
        """Compare with run.toml what of the settings is known; False when there is no run.toml yet.

        Raises: RunError naming the first setting that differs, its value then and now.
        """
        if not (self.root / SETTINGS_FILE).exists():
            return False
        stated = self.settings()["settings"]
        difference = first_difference({key: stated.get(key) for key in settings}, settings)
        if difference is not None:
            key, before, now = difference
            raise RunError(
                f"{self.root} was made under other settings: {key} was {before!r}, now {now!r}; "
                f"use another --run, or delete {self.root}"
            )
        return True

    def claim(self, settings: dict[str, Any], info: dict[str, Any]) -> bool:
        """Write run.toml, or check that it was written under the same settings. True when it was there.

        Raises: RunError as `refuse_other` does.
        """
        with self.alone():
            if self.refuse_other(settings):
                return True
            write_text(tomli_w.dumps({"settings": settings, "info": info}), self.root / SETTINGS_FILE)
        return False

    def mark_finished(self, summary: dict[str, Any]) -> None:
        """Record that every part is there; ranking waits for it."""
        write_text(json.dumps(summary, indent=2) + "\n", self.root / SUMMARY_FILE)

    def mark_unfinished(self) -> None:
        """Parts are to be computed (again): until they are, ranking must not read the others as if they were all."""
        with writing(self.root):
            (self.root / SUMMARY_FILE).unlink(missing_ok=True)

    def summary(self) -> dict[str, Any]:
        """What `curate embed` counted. Raises RunError when it has not finished."""
        self.settings()
        path = self.root / SUMMARY_FILE
        if not path.exists():
            raise RunError(f"`curate embed` has not finished in {self.root}; run it again, it goes on where it stopped")
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise RunError(f"{path} is damaged ({error}); run `curate embed` again") from error


def write_part(run: Run, name: str, files: dict[str, tuple[pa.Table, pa.Schema]]) -> None:
    """Write a part's tables, then its marker with each file's rows, bytes and sha256: the marker is the commit."""
    entries = {}
    for table_name, (table, schema) in files.items():
        path = run.table(table_name) / f"{name}.parquet"
        write_table(table, path, schema)
        entries[str(path.relative_to(run.root))] = {
            "rows": table.num_rows,
            "bytes": path.stat().st_size,
            "sha256": file_sha256(path),
        }
    write_text(json.dumps(entries, indent=2) + "\n", _marker(run, name))


def part_rows(run: Run, name: str, hashed: bool = True) -> dict[str, int] | None:
    """Rows of each table of a part that is there and sound; None when it must be computed (again).

    hashed: read every byte; otherwise the files' sizes must do.
    """
    try:
        entries = dict(json.loads(_marker(run, name).read_text(encoding="utf-8")))
        sound = all(_is_sound(run.root / file, entry, hashed) for file, entry in entries.items())
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return {file.split("/")[0]: entry["rows"] for file, entry in entries.items()} if entries and sound else None


def sound_parts(run: Run, names: Iterable[str]) -> set[str]:
    """Which of the named parts are there with every byte as it was written.

    The damaged are named on stderr and lose their marker, and the run is unfinished until they are computed again.
    """
    names = list(names)
    with ThreadPoolExecutor(HASHING_THREADS) as pool:  # sha256 runs without the GIL
        found = dict(zip(names, pool.map(lambda name: part_rows(run, name), names), strict=True))
    for name in [name for name, rows in found.items() if rows is None and _marker(run, name).exists()]:
        found[name] = part_rows(run, name)
        if found[name] is not None:
            continue  # another process has written it meanwhile
        say(f"{run.root}: {name} is damaged, not as its marker parts/{name}.json says; it is computed again")
        run.mark_unfinished()
        _marker(run, name).unlink(missing_ok=True)
    return {name for name, rows in found.items() if rows is not None}


def first_difference(before: Any, now: Any, prefix: str = "") -> tuple[str, Any, Any] | None:
    """The first key at which two nested settings differ, with both values; None when they are equal."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in [*before, *(key for key in now if key not in before)]:
            found = first_difference(before.get(key), now.get(key), f"{prefix}.{key}" if prefix else key)
            if found is not None:
                return found
        return None
    return None if before == now else (prefix, before, now)


def _is_sound(path: Path, entry: dict[str, Any], hashed: bool) -> bool:
    return path.stat().st_size == entry["bytes"] and (not hashed or file_sha256(path) == entry["sha256"])


def _marker(run: Run, name: str) -> Path:
    return run.root / "parts" / f"{name}.json"
