"""From the parts to pixels: row groups read, bytes decoded and preprocessed by threads, or processes that may die.

Begin at pool.py; decoders.py is what `--decode` chooses from.
"""
