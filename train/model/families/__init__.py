"""Diffusion models by family: what differs between them is in one file a family, what they share in two.

family.py says what every family must answer; loading.py finds a model, opens it, and has the list FAMILIES.
"""

from train.model.families.family import (
    Conditioning,
    DiffusionModel,
    Family,
    Latents,
    LatentShape,
    Scheduler,
    TextStates,
    add_noise,
    denoise,
    encode_prompts,
    encode_text,
    prompts_cut,
    text_tokens,
)
from train.model.families.loading import (
    BUNDLED,
    FAMILIES,
    digest,
    encoder_weights,
    family_drawn_by,
    family_of,
    fetched,
    left_out,
    load,
    locate,
    outline,
    pipeline_around,
    pipeline_index,
    whole_pipeline,
)

__all__ = [
    "BUNDLED", "FAMILIES", "Conditioning", "DiffusionModel", "Family", "LatentShape", "Latents", "Scheduler",
    "TextStates", "add_noise", "denoise", "digest", "encode_prompts", "encode_text", "encoder_weights",
    "family_drawn_by", "family_of",
    "fetched", "left_out", "load", "locate", "outline", "pipeline_around", "pipeline_index", "prompts_cut",
    "text_tokens", "whole_pipeline",
]  # fmt: skip
