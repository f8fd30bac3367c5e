"""Data sets as their publishers lay them out: manifests, the files they name, and the bytes of one image as a picture.

It may use storage and the database. Begin at manifest.py, then parquet.py; another layout becomes rows in layouts/.
"""
