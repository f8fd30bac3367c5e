-- Purpose: how many scorers agree with the human; the margin of psi orders pairs with equal votes.
-- Grain:   one eligible pair.
-- Inputs:  pair_scores.
-- Source:  after the majority vote of BalancedDPO (arXiv 2503.12575).
-- A margin of psi lies in [-1, 1]; half of it never outweighs a vote. A scorer without a margin has no vote.
-- The lines between `each scorer` and `end` are repeated for every scorer of the run.
select
    pair_id,
    0
    -- each scorer
    + coalesce({scorer}_margin > 0, false)::integer
    -- end
    + (psi_preferred - psi_rejected) / 2 as quality
from pair_scores
