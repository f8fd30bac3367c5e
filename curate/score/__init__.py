"""`curate score`: pictures and prompts of one's own, without a run, by the models and preprocessing of `curate embed`.

It may use embed's decoders, models and sources. Begin at stage.py.
"""

from curate.score.stage import score

__all__ = ["score"]
