"""`curate export-shards` and `verify`: the selected pairs as WebDataset tars, the source's own bytes, and their check.

Rooms: tars (laid out, then filled), verify. It may use rank's records, embed's records and ids, sources,
database and storage. Begin at stage.py; samples.py is what one sample says.
"""

from curate.export.stage import ExportOptions, export_shards

__all__ = ["ExportOptions", "export_shards"]
