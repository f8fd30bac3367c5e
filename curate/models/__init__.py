"""Sets of models, towers that make embeddings, and scorers that make one number of a picture and its prompt.

Room: towers (one model family per file). It uses sources for TOML and storage for hashes, and opens no tables. Begin at
scorers.py for what a scorer is, then scoring.py, which loads a set and runs it.
"""
