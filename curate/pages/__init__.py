"""What the pages of report, compare and review share: pictures read back from a run's source, as thumbnails or whole.

It uses sources, database and storage. Begin at pictures.py.
"""
