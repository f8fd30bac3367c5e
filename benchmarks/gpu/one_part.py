"""One part in its own process: `python -m benchmarks.gpu.one_part NAME RECORD BENCH`, as `__main__` starts it."""

import json
import sys
from importlib import import_module
from pathlib import Path

from benchmarks.gpu.plan import PARTS, Bench, Row, note_down


def main() -> None:
    """Each row is printed and recorded as soon as it is measured."""
    name, record, told = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    part = next(part for part in PARTS if part.name == name)
    module, function = part.function.split(":")
    measure = getattr(import_module(f"benchmarks.gpu.parts.{module}"), function)
    for row in measure(Bench(**json.loads(told))):
        note_down(record, name, row)
        print(shown(row), flush=True)


def shown(row: Row) -> str:
    """A line for who looks on."""
    if row.found is None:
        return f"  {row.what:<72} not measured: {row.note}"
    bound = f"at most {row.at_most:.3g}" if row.at_most is not None else ""
    bound = f"at least {row.at_least:.3g}" if row.at_least is not None else bound
    verdict = "" if row.holds in (None, True) else "   NOT SO"
    return f"  {row.what:<72}{row.found:>10.4g} {row.unit:<12}{bound}{verdict}"


if __name__ == "__main__":
    main()
