"""Diffusion models by family, the policy and its frozen reference, LoRA, weights over processes, saving.

It may use config, files and errors only. Begin at families/, then policy.py.
"""
