-- Purpose: the scored pictures of the models that are compared, numbered so that a prompt's stand together.
-- Grain:   one picture of one model under one prompt, however many pairs it is part of.
-- Inputs:  pairs, prompts, scored.
-- Parameters: $models, the models' names in the order of the report.
-- A score that is not finite is null. The lines between `each scorer` and `end` are repeated for every scorer.
with sides as (
    select prompt_id, image_0_uid as image_uid, image_0_model as model from pairs
    union all
    select prompt_id, image_1_uid as image_uid, image_1_model as model from pairs
),

pictures as (
    select distinct prompt_id, image_uid, list_position($models, model) - 1 as model
    from sides
    where list_contains($models, model)
)

select
    row_number() over (
        order by prompts.prompt, pictures.prompt_id, pictures.model, pictures.image_uid
    ) - 1 as picture,
    dense_rank() over (order by prompts.prompt, pictures.prompt_id) - 1 as place,
    pictures.prompt_id,
    pictures.image_uid,
    pictures.model,
    -- each scorer
    scored.{scorer}_score,
    -- end
from pictures
inner join prompts using (prompt_id)
inner join scored
    on pictures.prompt_id = scored.prompt_id and pictures.image_uid = scored.image_uid
order by picture
