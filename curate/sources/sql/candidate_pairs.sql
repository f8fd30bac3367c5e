-- Purpose: pairs of the candidates of a prompt, by a rule over their ranks or ratings
-- Grain:   one pair; image 0 is the better one, so it is the preferred one
-- Inputs:  candidates (prompt, image_group, image_uid, image_path, image_model, level (1 = best), and kept columns)
-- Parameters: $rule (all, adjacent, best-worst, best-rest), $per_prompt (most pairs of a group; null: all)
with candidates_with_ends as (
    select
        *,
        max(level) over (partition by image_group) as worst_level,
        row_number() over (partition by image_group, level order by image_uid) as place_in_level
    from candidates
    where level is not null and image_path is not null
),

gaps as (
    select
        better.prompt,
        better.image_group,
        better.image_uid as image_0_uid,
        worse.image_uid as image_1_uid,
        better.image_path as image_0_path,
        worse.image_path as image_1_path,
        better.image_model as image_0_model,
        worse.image_model as image_1_model,
        better.category,
        worse.level - better.level as gap
    from candidates_with_ends as better
    inner join candidates_with_ends as worse
        on better.image_group = worse.image_group and better.level < worse.level
    where
        case $rule
            when 'all' then true
            when 'adjacent' then worse.level = better.level + 1
            when 'best-rest' then better.level = 1
            when 'best-worst'
                then better.level = 1 and worse.level = worse.worst_level
                    and better.place_in_level = 1 and worse.place_in_level = 1
        end
),

numbered as (
    select
        *,
        row_number() over (partition by image_group order by gap desc, image_0_uid, image_1_uid) as place_in_group
    from gaps
)

select
    prompt,
    image_group,
    image_0_uid,
    image_1_uid,
    image_0_path,
    image_1_path,
    image_0_model,
    image_1_model,
    category
from numbered
where place_in_group <= coalesce($per_prompt, place_in_group)
order by image_group, place_in_group
