-- Purpose: the scores that psi is normalised over: those of pictures in eligible pairs, each counted once.
-- Grain:   one (prompt, image), however many pairs it occurs in.
-- Inputs:  eligible, scored.
-- The lines between `each scorer` and `end` are repeated for every scorer that psi weighs.
-- The semi join takes a score once, however often it is used.
with used as (
    select preferred_id as score_id from eligible
    union all
    select rejected_id as score_id from eligible
)

select
    -- each scorer
    {scorer}_score,
    -- end
    score_id
from scored
semi join used using (score_id)
