-- Purpose: the judged pairs with their sides named by the human's preference, the preferred one found among the scores.
-- Grain:   one pair of `pairs` that is no tie and whose preferred image has every score that psi weighs.
-- Inputs:  pairs, usable.
-- One side after the other, for one join's table of scores fits a memory that two do not.
with judged as (
    select
        pair_id,
        prompt_id,
        case preference when 0 then image_0_uid else image_1_uid end as preferred_uid,
        case preference when 0 then image_1_uid else image_0_uid end as rejected_uid
    from pairs
    where preference is not null
)

select
    judged.pair_id,
    judged.prompt_id,
    judged.preferred_uid,
    judged.rejected_uid,
    usable.score_id as preferred_id
from judged
inner join usable
    on hash(judged.preferred_uid) = usable.image_hash and hash(judged.prompt_id) = usable.prompt_hash
