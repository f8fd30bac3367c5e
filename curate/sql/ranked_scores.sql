-- Purpose: the ranked pairs with the scores of both images.
-- Grain:   one ranked pair.
-- Inputs:  ranked_preferred, psi.
-- The lines between `each scorer` and `end` are repeated for every scorer of the run.
select
    ranked_preferred.* exclude (rejected_id),
    -- each scorer
    psi.{scorer}_score as {scorer}_rejected,
    -- end
from ranked_preferred
inner join psi on ranked_preferred.rejected_id = psi.score_id
