-- Purpose: the scores that eligible pairs use, one scorer a row, so that psi can weigh them.
-- Grain:   one (prompt, image, scorer), however many pairs the image occurs in.
-- Inputs:  eligible, scores.
with used as (
    select prompt_id, preferred_uid as image_uid from eligible
    union
    select prompt_id, rejected_uid as image_uid from eligible
),

used_scores as (
    select scores.*
    from scores
    semi join used using (prompt_id, image_uid)
)

select
    prompt_id,
    image_uid,
    regexp_replace(name, '_score$', '') as scorer,
    score
from (unpivot used_scores on columns('_score$') into name name value score)
