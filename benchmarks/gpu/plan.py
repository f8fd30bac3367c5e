"""The parts of `make gpu` in the order of their worth, what a part is told, and what it tells."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Part:
    """A function of `parts/` in a process of its own, and its share of the time: seconds of nine minutes on an H100."""

    name: str
    function: str
    share: int
    title: str


PARTS = (
    Part("embed-paths", "embed_paths:measure", 60, "`curate embed`: each GPU path against the CPU"),
    Part("train-paths", "train_paths:measure", 80, "`train run`: each GPU path against the CPU"),
    Part("embed-speed", "embed_speed:measure", 150, "`curate embed` with towers of full size"),
    Part("train-sd15", "train_speed:sd15", 120, "Training at SD1.5's size, 512 px"),
    Part("train-sdxl", "train_speed:sdxl", 90, "Training at SDXL's size, 1024 px"),
    Part("reproduce", "reproduce:measure", 40, "The paper's claim in small, at 64 px"),
)


@dataclass(frozen=True)
class Bench:
    """What every part is told: the device, whether it is a rehearsal, its folder, its end, and the peers' scripts.

    until: seconds since the epoch at which the part is ended, if it has not.
    """

    device: str
    rehearse: bool
    work: str
    until: float
    diffusers: str | None = None
    salesforce: str | None = None

    @property
    def folder(self) -> Path:
        """Where a part may write; it is emptied after it."""
        return Path(self.work)

    @property
    def left_sec(self) -> float:
        """Time that the part has left."""
        return self.until - time.time()


@dataclass(frozen=True)
class Row:
    """One line of the table. `found` None: not measured, `note` says why.

    at_most, at_least: the bound that `found` is held to. A goal of speed has none in a rehearsal: `goal` sees to it.
    """

    what: str
    found: float | None
    unit: str = ""
    at_most: float | None = None
    at_least: float | None = None
    note: str = ""

    @property
    def holds(self) -> bool | None:
        """None where there is no bound, or nothing was measured."""
        if self.found is None or (self.at_most is None and self.at_least is None):
            return None
        low = float("-inf") if self.at_least is None else self.at_least
        high = float("inf") if self.at_most is None else self.at_most
        return low <= self.found <= high  # not for NaN


def goal(bench: Bench, value: float) -> float | None:
    """A bound that only a GPU of full size can be held to."""
    return None if bench.rehearse else value


def note_down(record: Path, part: str, told: Row | dict[str, Any]) -> dict[str, Any]:
    """One JSON line at the record's end, whole, so that a run that is cut off keeps what it has."""
    line = {"part": part, **(asdict(told) | {"holds": told.holds} if isinstance(told, Row) else told)}
    with record.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    return line


def recorded(record: Path) -> list[dict[str, Any]]:
    """Every line so far."""
    return [json.loads(line) for line in record.read_text("utf-8").splitlines()] if record.exists() else []


def chosen(names: str | None) -> Sequence[Part]:
    """The parts that are named, with commas; all of them for None. Raises: ValueError for an unknown one."""
    wanted = [part.name for part in PARTS] if names is None else names.split(",")
    if unknown := sorted(set(wanted) - {part.name for part in PARTS}):
        raise ValueError(f"there is no part {unknown[0]}; there are {', '.join(part.name for part in PARTS)}")
    return [part for part in PARTS if part.name in wanted]
