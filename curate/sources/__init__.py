"""Data sets as their publishers lay them out: manifests, the files they name, and the bytes of one image as a picture.

It may use storage and the database. Begin at manifest.py, then parquet.py; columns.py says
of what type a column may be, and another layout becomes rows in layouts/.
"""
