-- Purpose: the pairs that people are shown: two pictures of one prompt that are both there, by two models.
-- Grain:   one unordered pair of pictures under a prompt, however often it occurs; sides as in its first row.
-- Inputs:  pairs, prompts, images.
-- Parameters: $models, the models' names; empty: any two that differ, or that the source does not name.
with wanted as (
    select *
    from pairs
    where
        len($models) = 0
        or (list_contains($models, image_0_model) and list_contains($models, image_1_model))
),

unordered as (
    select
        prompt_id,
        min(pair_id) as pair_id,
        arg_min(image_0_uid, pair_id) as image_0_uid,
        arg_min(image_1_uid, pair_id) as image_1_uid,
        arg_min(image_0_model, pair_id) as image_0_model,
        arg_min(image_1_model, pair_id) as image_1_model
    from wanted
    where image_0_model is distinct from image_1_model or image_0_model is null
    group by prompt_id, least(image_0_uid, image_1_uid), greatest(image_0_uid, image_1_uid)
)

select
    unordered.pair_id,
    unordered.prompt_id,
    prompts.prompt,
    unordered.image_0_uid,
    unordered.image_1_uid,
    unordered.image_0_model,
    unordered.image_1_model,
    image_0.format as image_0_format,
    image_1.format as image_1_format
from unordered
inner join prompts using (prompt_id)
inner join images as image_0 on unordered.image_0_uid = image_0.image_uid
inner join images as image_1 on unordered.image_1_uid = image_1.image_uid
order by unordered.pair_id
