-- Purpose: the scores that psi is normalised over: those of pictures in eligible pairs, each counted once.
-- Grain:   one (prompt, image), however many pairs it occurs in.
-- Inputs:  eligible, scores.
with used as (
    select prompt_id, preferred_uid as image_uid from eligible
    union
    select prompt_id, rejected_uid as image_uid from eligible
)

select
    prompt_id,
    image_uid,
    -- each scorer
    {scorer}_score::double as {scorer}_score,
    -- end
from scores
semi join used using (prompt_id, image_uid)
