-- Purpose: each score's place between the scorer's least and greatest value among all (prompt, image) that
--          eligible pairs use; 0 where a scorer gives one value only. Range [0, 1].
-- Grain:   one (prompt, image) that an eligible pair uses.
-- Inputs:  used_scores.
-- The lines between `each scorer` and `end` are repeated for every scorer that psi weighs.
with bounds as (
    select
        -- each scorer
        min({scorer}_score::double) as {scorer}_least,
        max({scorer}_score::double) as {scorer}_greatest,
        -- end
    from used_scores
)

select
    used_scores.*,
    -- each scorer
    coalesce(({scorer}_score::double - {scorer}_least) / nullif({scorer}_greatest - {scorer}_least, 0), 0)
        as {scorer}_unit,
    -- end
from used_scores
cross join bounds
