"""`train sample`: models draw the same prompts from the same noise, as a data set of pairs that `curate embed` takes.

It may use model and files. Begin at stage.py, then sampling.py; generate.py draws one batch.
"""

from train.sample.stage import SampleOptions, sample

__all__ = ["SampleOptions", "sample"]
