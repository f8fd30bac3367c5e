-- Purpose: the preferred picture's score alone: psi_preferred.
-- Grain:   one eligible pair.
-- Inputs:  pair_scores.
-- Source:  a control for qsd, which with scores of a narrow range mostly rewards a good winner.
select
    pair_id,
    psi_preferred as quality
from pair_scores
