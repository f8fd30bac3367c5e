"""Tars laid out before an image is read, then filled row group by row group, at the places that the plan gives.

Begin at plan.py, then fill.py; layout.py writes the tar format's own bytes.
"""
