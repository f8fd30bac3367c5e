"""`curate review`: people judge pairs blind on a page of this machine, and their judgements become a data set.

It may use pages, database, sources and compare's statistics and figures in words. Begin at stage.py; judgements.py is
the log.
"""

from curate.review.stage import ReviewOptions, review

__all__ = ["ReviewOptions", "review"]
