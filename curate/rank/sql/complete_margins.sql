-- Purpose: the margins of the pairs that have one from every scorer, to compare pairs by all of them.
-- Grain:   one eligible pair without a missing margin.
-- Inputs:  pair_scores.
-- The lines between `each scorer` and `end` are repeated for every scorer of the run.
select
    -- each scorer
    {scorer}_margin::double as {scorer}_margin,
    -- end
    pair_id
from pair_scores
where
    true
    -- each scorer
    and isfinite({scorer}_margin)
    -- end
order by pair_id
