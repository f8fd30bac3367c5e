"""The training half: shards in, a diffusers pipeline or a LoRA out. Imports nothing of `curate`."""
