"""What a training run leaves in its folder: settings, checkpoints, the log and its curves, the model card.

Begin at run_folder.py, which lists the files.
"""
