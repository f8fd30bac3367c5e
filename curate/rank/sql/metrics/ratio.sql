-- Purpose: the preferred picture's share of both scores: psi_preferred / (psi_preferred + psi_rejected); 1/2 for 0 and 0.
-- Grain:   one eligible pair.
-- Inputs:  pair_scores.
-- Source:  the Bradley-Terry choice probability with psi as strength (Bradley and Terry, Biometrika 39, 1952).
select
    pair_id,
    coalesce(psi_preferred / nullif(psi_preferred + psi_rejected, 0), 0.5) as quality
from pair_scores
