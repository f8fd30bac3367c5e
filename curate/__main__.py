"""`python -m curate`: the same as the command `curate`, in an environment whose commands are not on the path."""

from curate.cli import main

main()
