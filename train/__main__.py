"""`python -m train`: the same as the command `train`, in an environment whose commands are not on the path."""

from train.cli import main

main()
