-- Purpose: scores as they are; only for those that lie in [0, 1] by themselves, such as HPSv2.
-- Grain:   one (prompt, image) that an eligible pair uses.
-- Inputs:  used_scores.
-- The lines between `each scorer` and `end` are repeated for every scorer that psi weighs.
select
    used_scores.*,
    -- each scorer
    {scorer}_score::double as {scorer}_unit,
    -- end
from used_scores
