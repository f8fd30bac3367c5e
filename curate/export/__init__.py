"""`curate export-shards`, `export-for` and `verify`: the selected pairs as WebDataset tars, or as others read them.

Rooms: layouts (tars and those of other trainers, from one store of images), verify. It may use rank's records, embed's
records and ids, sources, database and storage. Begin at stage.py; samples.py is what one sample says.
"""

from curate.export.stage import ExportOptions, LayoutOptions, export_for, export_shards

__all__ = ["ExportOptions", "LayoutOptions", "export_for", "export_shards"]
