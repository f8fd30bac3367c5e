-- Purpose: pairs drawn by two of the models, as numbers of pictures; the model that comes first is `one`.
-- Grain:   one pair of pictures of two models, both scored, however often it was judged.
-- Inputs:  pairs, compared_pictures.
-- Parameters: $models, the models' names in the order of the report.
-- A prompt's pictures are numbered by model, so the lower number is the earlier model's.
select distinct
    least(first.picture, second.picture) as one,
    greatest(first.picture, second.picture) as two
from pairs
inner join compared_pictures as first
    on
        pairs.prompt_id = first.prompt_id and pairs.image_0_uid = first.image_uid
        and list_position($models, pairs.image_0_model) - 1 = first.model
inner join compared_pictures as second
    on
        pairs.prompt_id = second.prompt_id and pairs.image_1_uid = second.image_uid
        and list_position($models, pairs.image_1_model) - 1 = second.model
where first.model <> second.model
order by one, two
