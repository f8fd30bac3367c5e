-- Purpose: pairs drawn by two models, each side under its model, with every scorer's two values.
-- Grain:   one pair of images of the two models, both scored, however often it was judged.
-- Inputs:  pairs, prompts, scores.
-- Parameters: $model, $against, the two models' names.
-- The lines between `each scorer` and `end` are repeated for every scorer of the run.
with sided as (
    select
        pair_id,
        prompt_id,
        case image_0_model when $model then image_0_uid else image_1_uid end as model_uid,
        case image_0_model when $model then image_1_uid else image_0_uid end as against_uid
    from pairs
    where
        (image_0_model = $model and image_1_model = $against)
        or (image_0_model = $against and image_1_model = $model)
),

distinct_pairs as (
    select prompt_id, model_uid, against_uid, min(pair_id) as pair_id
    from sided
    group by prompt_id, model_uid, against_uid
)

select
    distinct_pairs.pair_id,
    distinct_pairs.prompt_id,
    prompts.prompt,
    distinct_pairs.model_uid,
    distinct_pairs.against_uid,
    -- each scorer
    of_model.{scorer}_score as {scorer}_model,
    of_against.{scorer}_score as {scorer}_against,
    -- end
from distinct_pairs
inner join prompts using (prompt_id)
inner join scores as of_model
    on distinct_pairs.prompt_id = of_model.prompt_id and distinct_pairs.model_uid = of_model.image_uid
inner join scores as of_against
    on distinct_pairs.prompt_id = of_against.prompt_id and distinct_pairs.against_uid = of_against.image_uid
order by prompts.prompt, distinct_pairs.pair_id
