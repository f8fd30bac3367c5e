"""Which run a command means when none is named: the one that is found from where one stands."""

from itertools import chain, islice
from pathlib import Path

RUN = "run"
"""The run directory where none is named or found."""
SETTINGS_FILE = "run.toml"
MOST_NAMED = 5


def found_run() -> Path:
    """`run` if it is one; else the folder that one stands in; else the only run in `run`; else one further up."""
    here = Path.cwd()
    inside = list(islice(Path(RUN).glob(f"*/{SETTINGS_FILE}"), 2))
    places = chain(
        [Path(RUN)],
        (place for place in (here, *here.parents) if (place / SETTINGS_FILE).is_file()),
        [inside[0].parent] if len(inside) == 1 else [],
        (place / RUN for place in here.parents),
    )
    return next((place for place in places if (place / SETTINGS_FILE).is_file()), Path(RUN))


def runs_near(place: Path) -> str:
    """`; near it are x, y`: the runs around a folder and below where one stands, two folders deep; "" for none."""
    patterns = (f"*/{SETTINGS_FILE}", f"*/*/{SETTINGS_FILE}")
    found = chain.from_iterable(top.glob(pattern) for top in (Path(), place.parent) for pattern in patterns)
    names = sorted({str(file.parent) for file in islice(found, 100)})
    more = ", ..." if len(names) > MOST_NAMED else ""
    return f"; near it are {', '.join(names[:MOST_NAMED])}{more}" if names else ""
