"""The training half: shards in, a diffusers pipeline or a LoRA out. Imports nothing of `curate`.

Wings: data (shards to batches of latents), model (families, policy and reference, saving), sample (`train sample`),
training (`train run`). objectives.py has the losses, config.py the recipe. Begin at cli.py, then training/loop.py.
"""
