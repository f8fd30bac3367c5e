"""`train run`: the loop, what guards it, optimizers, validation.

Room: output (what a run leaves in its folder). It may use data, model, objectives, config, processes and, for
pictures while training, sample. Begin at stage.py, then loop.py.
"""

from train.training.stage import TrainOptions, train

__all__ = ["TrainOptions", "train"]
