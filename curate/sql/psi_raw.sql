-- Purpose: psi without normalisation; only for scores that lie in [0, 1] by themselves, such as HPSv2.
-- Grain:   one (prompt, image) that an eligible pair uses.
-- Inputs:  scores_long, psi_weights (scorer, weight).
-- The sum is taken in the scorers' order, so that the last bit does not depend on threads.
select
    prompt_id,
    image_uid,
    sum(weight * score::double order by scorer) / sum(weight order by scorer) as psi
from scores_long
inner join psi_weights using (scorer)
group by prompt_id, image_uid
