"""`curate report` and `browse`: one page about a ranking, written to a file or served on this machine.

It may use rank's records, psi and calibration, pages, database and sources. Begin at stage.py, then figures.py.
"""

from curate.report.stage import ReportOptions, report

__all__ = ["ReportOptions", "report"]
