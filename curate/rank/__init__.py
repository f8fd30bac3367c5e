"""`curate rank`, `metrics` and `diff`: a metric in SQL over the pairs' scores, a total order, the best selected.

Rooms: metrics (what a metric file is, calibration, Pareto fronts), selection (limits, diversity, coverage), sql, where
sql/metrics has a file for each metric. It may use database and models' names, and needs no torch. Begin at stage.py.
"""

from curate.rank.psi import Psi
from curate.rank.stage import RankOptions, rank

__all__ = ["Psi", "RankOptions", "rank"]
