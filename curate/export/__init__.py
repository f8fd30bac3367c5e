"""`curate export-shards`, `export-for` and `verify`: the selected pairs as WebDataset tars, or as others read them.

Rooms: tars (laid out, then filled), layouts (of other trainers), verify. It may use rank's records, embed's records and
ids, sources, database and storage. Begin at stage.py; samples.py is what one sample says.
"""

from curate.export.layouts.stage import LayoutOptions, export_for
from curate.export.stage import ExportOptions, export_shards

__all__ = ["ExportOptions", "LayoutOptions", "export_for", "export_shards"]
