"""`train run`: the loop, what guards it, optimizers, checkpoints, the run folder and its log, validation, the card.

It uses data, model, objectives and, for pictures while training, sample. Begin at stage.py, then loop.py.
"""

from train.training.stage import TrainOptions, train

__all__ = ["TrainOptions", "train"]
