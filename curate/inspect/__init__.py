"""`curate inspect`: what a file or folder of preference data is, and a manifest to begin with.

It may use storage and sources. Begin at stage.py; guess.py writes the manifest.
"""

from curate.inspect.stage import inspect as inspect

__all__ = ["inspect"]
