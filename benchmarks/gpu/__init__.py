"""`make gpu`: one command that proves the GPU's code and measures it, within nine minutes, into docs/gpu.md.

`__main__.py` is the command, `plan.py` its parts by their worth, `parts/` what each measures. Until a part has its
process nothing but Python's own library is loaded, so that a machine where packages are missing is told which.
"""
