-- Purpose: each score's percentile: (rank - 1) / (n - 1) among all (prompt, image) that eligible pairs use;
--          equal scores share the lowest rank. Range [0, 1], whatever a scorer's scale.
-- Grain:   one (prompt, image) that an eligible pair uses.
-- Inputs:  used_scores.
-- The lines between `each scorer` and `end` are repeated for every scorer that psi weighs.
select
    used_scores.*,
    -- each scorer
    percent_rank() over (order by {scorer}_score) as {scorer}_unit,
    -- end
from used_scores
