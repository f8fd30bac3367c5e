-- Purpose: the pairs that can be ranked, with their sides named by the human's preference.
-- Grain:   one pair of `pairs` that is no tie and whose two images were scored.
-- Inputs:  pairs, scores.
with scored as (
    select prompt_id, image_uid
    from scores
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
    sided.rejected_uid
from sided
semi join scored as preferred
    on sided.prompt_id = preferred.prompt_id and sided.preferred_uid = preferred.image_uid
semi join scored as rejected
    on sided.prompt_id = rejected.prompt_id and sided.rejected_uid = rejected.image_uid
