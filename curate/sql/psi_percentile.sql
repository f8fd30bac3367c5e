-- Purpose: psi from each score's percentile: (rank - 1) / (n - 1) among all (prompt, image) that eligible
--          pairs use; equal scores share the lowest rank. Range [0, 1], whatever a scorer's scale.
-- Grain:   one (prompt, image) that an eligible pair uses.
-- Inputs:  scores_long, psi_weights (scorer, weight).
with normalised as (
    select
        prompt_id,
        image_uid,
        scorer,
        weight,
        percent_rank() over (partition by scorer order by score) as value
    from scores_long
    inner join psi_weights using (scorer)
)

select
    prompt_id,
    image_uid,
    sum(weight * value order by scorer) / sum(weight order by scorer) as psi
from normalised
group by prompt_id, image_uid
