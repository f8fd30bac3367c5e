-- Purpose: what of the candidates made no pair, and why
-- Grain:   one reason
-- Inputs:  candidates, pairs_of_candidates
with groups as (
    select
        image_group,
        count(*) as pictures,
        max(level) as levels
    from candidates
    where level is not null and image_path is not null and image_group is not null
    group by image_group
),

reasons as (
    select
        'pictures_without_rank' as reason,
        count(*) as pictures
    from candidates
    where level is null

    union all

    select
        'pictures_without_prompt' as reason,
        count(*) as pictures
    from candidates
    where image_group is null

    union all

    select
        'pictures_without_path' as reason,
        count(*) as pictures
    from candidates
    where image_path is null

    union all

    select
        'prompts_of_one_picture' as reason,
        count(*) as pictures
    from groups
    where pictures = 1

    union all

    select
        'prompts_all_tied' as reason,
        count(*) as pictures
    from groups
    where pictures > 1 and levels = 1

    union all

    select
        'pictures_in_no_pair' as reason,
        count(*) as pictures
    from candidates
    inner join groups
        on candidates.image_group = groups.image_group
    where
        groups.levels > 1
        and candidates.level is not null
        and candidates.image_path is not null
        and not exists (
            select 1
            from pairs_of_candidates as pairs
            where
                pairs.image_group = candidates.image_group
                and candidates.image_uid in (pairs.image_0_uid, pairs.image_1_uid)
        )
)

select
    reason,
    pictures
from reasons
order by reason
