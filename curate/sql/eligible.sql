-- Purpose: the pairs that can be ranked, with their sides named by the human's preference.
-- Grain:   one pair of `pairs` that is no tie and whose two images have every score that psi weighs.
-- Inputs:  pairs, scored.
-- The lines between `each scorer` and `end` are repeated for every scorer that psi weighs.
with usable as (
    select score_id, prompt_id, image_uid
    from scored
    where
        true
        -- each scorer
        and {scorer}_score is not null
        -- end
),

sided as (
    select
        pair_id,
        prompt_id,
        case preference when 0 then image_0_uid else image_1_uid end as preferred_uid,
        case preference when 0 then image_1_uid else image_0_uid end as rejected_uid
    from pairs
    where preference is not null
)

select
    sided.pair_id,
    sided.prompt_id,
    sided.preferred_uid,
    sided.rejected_uid,
    preferred.score_id as preferred_id,
    rejected.score_id as rejected_id
from sided
inner join usable as preferred
    on sided.preferred_uid = preferred.image_uid and sided.prompt_id = preferred.prompt_id
inner join usable as rejected
    on sided.rejected_uid = rejected.image_uid and sided.prompt_id = rejected.prompt_id
