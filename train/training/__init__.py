"""`train run`: the loop, optimizers, checkpoints, validation, and what a recipe costs.

Rooms: steering (what sets the next step, or ends the run), output (what a run leaves in its folder). It may use data,
model, objectives, config, processes and, for pictures while training, sample. Begin at stage.py, then loop.py.
"""

from train.training.stage import TrainOptions, train

__all__ = ["TrainOptions", "train"]
