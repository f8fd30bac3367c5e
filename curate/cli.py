"""The `curate` command line: which commands there are. What each takes and does is in curate/commands/."""

import os
import sys

import typer

from curate.commands import ask, compare, embed, export, inspect, rank, report, review
from curate.database.interrupts import stoppable
from curate.errors import CurateError
from curate.terminal.progress import say
from curate.terminal.streams import sound_streams

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Score the pairs of a preference data set, rank them by a SQL metric, and pack the best as shards.",
)
app.command(short_help="Say what a data set is, and write a manifest for it.")(inspect.inspect)
app.command(short_help="Score every image and prompt of a data set once.")(embed.embed)
app.command(short_help="Say how far a run is, and how fast.")(embed.status)
app.command(short_help="Bring a run at a URL to a folder of this machine.")(embed.fetch)
app.command(short_help="Rank the pairs by a SQL metric and select the top.")(rank.rank)
app.add_typer(rank.metrics_app, name="metrics", short_help="List the shipped metrics, or check one of your own.")
app.command(short_help="Say how two rankings differ.")(rank.diff)
app.command(short_help="Write the selected pairs as WebDataset shards.")(export.export_shards)
app.command(short_help="Write the selected pairs as another trainer reads them.")(export.export_for)
app.command(short_help="Check every hash, count and image of shards or a run.")(export.verify)
app.command(short_help="Query the run's tables, read-only.")(ask.sql)
app.command(short_help="Find the prompts, and their pairs, that are like a text.")(ask.search)
app.command(short_help="Say which of two or more models wins, by each scorer.")(compare.compare)
app.command(short_help="Judge pairs of pictures blind, on a page of this machine.")(review.review)
app.command(short_help="Write one HTML page about a ranking.")(report.report)
app.command(short_help="Serve the page of a ranking on this machine.")(report.browse)


def main() -> None:
    """Entry point: an expected failure becomes one sentence on stderr; anything else keeps its traceback."""
    # Before torch loads: its waiting CPU threads sleep instead of spin. Where other work shares the cores,
    # spinning made small models ten times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        with sound_streams(), stoppable():
            app(prog_name="curate")
    except KeyboardInterrupt:
        sys.exit(130)
    except CurateError as error:
        say(f"curate: {error}")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
