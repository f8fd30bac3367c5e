"""Shards and runs held against what they say of themselves: every hash, count, image and prompt. Begin at stage.py."""
