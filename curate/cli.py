"""The `curate` command line: which commands there are. What each takes and does is in curate/commands/."""

import os
import sys
from collections.abc import Callable

from curate.commands import ask, compare, embed, export, inspect, rank, report, review
from curate.database.interrupts import stoppable
from curate.errors import CurateError
from curate.terminal.progress import say
from curate.terminal.streams import sound_streams
from schemas.command_line import INTERRUPTED, INTERRUPTED_CODE, Command, command_line

app = command_line("Score the pairs of a preference data set, rank them by a SQL metric, and pack the best as shards.")
COMMANDS: dict[str, dict[Callable[..., None], str]] = {
    "Score a data set": {
        inspect.inspect: "Say what a data set is, and write a manifest for it.",
        embed.embed: "Score every image and prompt of a data set once.",
        embed.status: "Say how far a run is, and how fast.",
        embed.fetch: "Bring a run at a URL to a folder of this machine.",
    },
    "Choose pairs": {
        rank.rank: "Rank the pairs by a SQL metric and select the top.",
        rank.diff: "Say how two rankings differ.",
    },
    "Hand them on": {
        export.export_shards: "Write the selected pairs as WebDataset shards.",
        export.export_for: "Write the selected pairs as another trainer reads them.",
        export.verify: "Check every hash, count and image of shards or a run.",
    },
    "Look and ask": {
        ask.sql: "Query the run's tables, read-only.",
        ask.search: "Find the prompts, and their pairs, that are like a text.",
        ask.show: "Show a pair or an image: pictures, scores, ranks.",
        ask.score: "Score pictures of your own, without a run.",
        report.report: "Write one HTML page about a ranking.",
        report.browse: "Serve the page of a ranking on this machine.",
    },
    "Who wins": {
        compare.compare: "Say which of two or more models wins, by each scorer.",
        review.review: "Judge pairs of pictures blind, on a page of this machine.",
    },
}
for group, commands in COMMANDS.items():
    for function, sentence in commands.items():
        app.command(short_help=sentence, rich_help_panel=group, cls=Command)(function)
app.add_typer(
    rank.metrics_app,
    name="metrics",
    rich_help_panel="Choose pairs",
    short_help="List the shipped metrics, or check one of your own.",
)


def main() -> None:
    """Entry point: an expected failure becomes one sentence on stderr; anything else keeps its traceback."""
    # Before torch loads: its waiting CPU threads sleep instead of spin. Where other work shares the cores,
    # spinning made small models ten times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        with sound_streams(), stoppable():
            app(prog_name="curate")
    except KeyboardInterrupt:  # as DuckDB says it, or before a command begins
        say(f"curate: {INTERRUPTED}")
        sys.exit(INTERRUPTED_CODE)
    except CurateError as error:
        say(f"curate: {error}")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
