-- Purpose: the scores that a pair can be ranked by, by the hashes of their ids.
-- Grain:   one (prompt, image) that has every score that psi weighs.
-- Inputs:  scored.
-- The lines between `each scorer` and `end` are repeated for every scorer of the run, those between `each weighed` and
-- `end` for every scorer that psi weighs.
select
    score_id,
    -- each scorer
    {scorer}_score,
    -- end
    prompt_hash,
    image_hash
from scored
where
    true
    -- each weighed
    and {weighed}_score is not null
    -- end
