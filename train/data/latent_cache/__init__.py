"""Each picture and each prompt is encoded once and kept on disk, for every selection that it is in.

Uses `train/model` and the rest of `train/data`. Begin at cache.py; rows.py says what is kept, store.py how.
"""
