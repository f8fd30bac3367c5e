-- Purpose: the prompts of the compared pictures, each with its category where the source says one.
-- Grain:   one prompt, in the order of its pictures.
-- Inputs:  pairs, prompts, compared_pictures.
with categories as (
    select prompt_id, min(category) as category
    from pairs
    group by prompt_id
),

places as (
    select distinct place, prompt_id
    from compared_pictures
)

select
    places.place,
    prompts.prompt,
    categories.category
from places
inner join prompts using (prompt_id)
left join categories using (prompt_id)
order by places.place
