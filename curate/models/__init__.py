"""Sets of models, towers that make embeddings, and scorers that make one number of a picture and its prompt.

Room: towers (one model family per file). It may use sources, for TOML, and storage, for hashes; it opens no tables.
Begin at scorers.py for what a scorer is, then scoring.py, which loads a set and runs it.
"""
