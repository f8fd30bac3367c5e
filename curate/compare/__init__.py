"""`curate compare`: which of two or more models wins, by each scorer, with intervals and a page of their pictures.

Room: statistics (win rates, bootstrap, strengths, diversity). It may use pages, database and sources. Begin at
stage.py.
"""

from curate.compare.stage import CompareOptions, compare

__all__ = ["CompareOptions", "compare"]
