-- Purpose: the ranked pairs with the scores of their preferred image.
-- Grain:   one ranked pair.
-- Inputs:  ranked, psi.
-- The lines between `each scorer` and `end` are repeated for every scorer of the run.
-- One side after the other, for one join's table of scores fits a memory that two do not.
select
    ranked.pair_number,
    ranked.rejected_id,
    ranked.quality,
    ranked.rank,
    -- each scorer
    psi.{scorer}_score as {scorer}_preferred,
    -- end
from ranked
inner join psi on ranked.preferred_id = psi.score_id
