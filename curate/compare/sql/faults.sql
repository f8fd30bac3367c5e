-- Purpose: pictures of the compared models that were left out, by reason.
-- Grain:   one model and reason.
-- Inputs:  pairs, dropped.
-- Parameters: $models, the models' names.
with sides as (
    select image_0_uid as image_uid, image_0_model as model from pairs
    union
    select image_1_uid as image_uid, image_1_model as model from pairs
)

select
    sides.model,
    dropped.reason,
    count(distinct sides.image_uid) as n_pictures
from sides
inner join dropped using (image_uid)
where list_contains($models, sides.model)
group by sides.model, dropped.reason
order by sides.model, dropped.reason
