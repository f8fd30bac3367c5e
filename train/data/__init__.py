"""From shards to micro-batches: pairs checked, shapes, every random draw of a step, latents and their cache.

It may use model, for encoding. Begin at pairs.py, then batches.py.
"""
