-- Purpose: pairs with a preference that are not ranked because a side has no row of scores, or lacks one of them.
-- Grain:   one judged pair of `pairs` that is not in `eligible`.
-- Inputs:  pairs, eligible, scored.
with unscored as (
    select pair_id, prompt_id, image_0_uid, image_1_uid
    from pairs
    anti join eligible using (pair_id)
    where preference is not null
),

-- A left join keeps each pair once: a prompt and image have one row of scores.
sides as (
    select
        unscored.pair_id,
        zero.score_id is not null and one.score_id is not null as both_have_rows
    from unscored
    left join scored as zero
        on hash(unscored.image_0_uid) = zero.image_hash and hash(unscored.prompt_id) = zero.prompt_hash
    left join scored as one
        on hash(unscored.image_1_uid) = one.image_hash and hash(unscored.prompt_id) = one.prompt_hash
)

select
    pair_id,
    case when both_have_rows then 'score_missing' else 'image_dropped' end as reason
from sides
