"""`curate status`."""

from curate.commands.common import JsonOption, RunOrUrlOption, print_report
from curate.storage.run import run_at
from curate.terminal.text import status_lines


def status(run: RunOrUrlOption = "run", as_json: JsonOption = False) -> None:
    """Say whether a run is running, finished or stopped, how far it is, and how fast.

    Example: curate status --run run
    """
    from curate.embed.status import status as run_status

    report = run_status(run_at(run))
    print_report(report, as_json, status_lines(report))
