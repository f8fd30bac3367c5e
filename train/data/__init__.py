"""From shards to micro-batches: pairs checked, shapes, every random draw of a step, latents and their cache.

It may use config, processes (what one does for all) and, for encoding, model. Begin at pairs.py, then batches.py.
"""
