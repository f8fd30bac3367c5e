"""From shards to micro-batches: pairs checked, shapes, every random draw of a step, latents and their cache.

It uses model for encoding. Begin at pairs.py, then batches.py.
"""
