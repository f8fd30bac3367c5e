-- Purpose: psi from each score's place between the scorer's least and greatest value among all
--          (prompt, image) that eligible pairs use; 0 where a scorer gives one value only. Range [0, 1].
-- Grain:   one (prompt, image) that an eligible pair uses.
-- Inputs:  scores_long, psi_weights (scorer, weight).
with bounds as (
    select scorer, min(score)::double as least, max(score)::double as greatest
    from scores_long
    group by scorer
),

normalised as (
    select
        prompt_id,
        image_uid,
        scorer,
        weight,
        coalesce((score::double - least) / nullif(greatest - least, 0), 0) as value
    from scores_long
    inner join psi_weights using (scorer)
    inner join bounds using (scorer)
)

select
    prompt_id,
    image_uid,
    sum(weight * value order by scorer) / sum(weight order by scorer) as psi
from normalised
group by prompt_id, image_uid
