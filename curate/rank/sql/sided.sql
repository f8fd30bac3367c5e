-- Purpose: the judged pairs with their sides named by the human's preference, and the scores of the preferred image.
-- Grain:   one pair of `pairs` that is no tie and whose preferred image has every score that psi weighs.
-- Inputs:  pairs, usable.
-- The lines between `each scorer` and `end` are repeated for every scorer of the run.
-- One side after the other, for one join's table of scores may fit a memory that two do not. Ties are not filtered: they
-- prefer no image, which finds no score; of a filter's rows DuckDB expects a fifth, and would keep the pairs' texts in
-- memory for the scores to go past, instead of the scores.
with judged as (
    select
        pair_id,
        prompt_id,
        case preference when 0 then image_0_uid when 1 then image_1_uid end as preferred_uid,
        case preference when 0 then image_1_uid when 1 then image_0_uid end as rejected_uid
    from pairs
)

select
    judged.pair_id,
    judged.prompt_id,
    judged.preferred_uid,
    judged.rejected_uid,
    -- each scorer
    usable.{scorer}_score as {scorer}_preferred,
    -- end
    usable.score_id as preferred_id
from judged
inner join usable
    on hash(judged.preferred_uid) = usable.image_hash and hash(judged.prompt_id) = usable.prompt_hash
