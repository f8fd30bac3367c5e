"""`curate report` and `browse`: one page about a ranking, written to a file or served on this machine.

It reads what rank wrote, and stands on pages and database. Begin at stage.py, then figures.py.
"""

from curate.report.stage import ReportOptions, report

__all__ = ["ReportOptions", "report"]
