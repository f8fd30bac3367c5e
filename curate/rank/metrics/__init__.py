"""What a metric's SQL file declares, and what a metric may read beyond scores: calibrated odds, Pareto fronts.

The shipped metrics' SQL lies in ../sql/metrics. Begin at metric.py.
"""
