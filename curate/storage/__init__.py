"""Files by path or URL, folders whose files are whole or not there, Parquet tables, and the run directory.

It may use terminal and errors. Begin at run.py; folder.py and url_folder.py are one interface.
"""

from curate.storage.run import Run, open_run

__all__ = ["Run", "open_run"]
