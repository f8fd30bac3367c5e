-- Purpose: a good preferred picture against a poor rejected one: psi_preferred * (1 - psi_rejected).
-- Grain:   one eligible pair.
-- Inputs:  pair_scores.
-- Source:  Singh et al., Effective Text-to-Image Alignment with Quality Aware Pair Ranking (DPO-QSD), FITML 2024.
select
    pair_id,
    psi_preferred * (1 - psi_rejected) as quality
from pair_scores
