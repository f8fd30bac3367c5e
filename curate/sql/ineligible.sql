-- Purpose: why each other pair is not ranked, so that counts add up.
-- Grain:   one pair of `pairs` that is not in `eligible`.
-- Inputs:  pairs, eligible, scored.
with others as (
    select pair_id, prompt_id, image_0_uid, image_1_uid, preference
    from pairs
    anti join eligible using (pair_id)
),

-- Few pairs that were judged cannot be ranked; only for those is it asked whether both images have a row of scores.
fully_scored as (
    select others.pair_id
    from others
    semi join scored as zero
        on others.image_0_uid = zero.image_uid and others.prompt_id = zero.prompt_id
    semi join scored as one
        on others.image_1_uid = one.image_uid and others.prompt_id = one.prompt_id
    where others.preference is not null
)

select
    others.pair_id,
    case
        when others.preference is null then 'tie'
        when fully_scored.pair_id is null then 'image_dropped'
        else 'score_missing'
    end as reason
from others
left join fully_scored using (pair_id)
