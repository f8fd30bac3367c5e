"""The demo's miniature world: scenes, their hidden truth, a tiny Stable Diffusion, judges and judgements."""
