"""Data sets as their publishers lay them out: manifests, the files they name, and the bytes of one image as a picture.

It may use storage. Begin at manifest.py, then parquet.py.
"""
