-- Purpose: how much better the preferred picture scores: psi_preferred - psi_rejected.
-- Grain:   one eligible pair.
-- Inputs:  pair_scores.
-- Source:  the reward margin of FiFA (arXiv 2410.10166), without its other terms.
select
    pair_id,
    psi_preferred - psi_rejected as quality
from pair_scores
