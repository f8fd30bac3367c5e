-- Purpose: everything that a filter may ask of a pair: its scores, its prompt, who judged it, which models drew it.
-- Grain:   one eligible pair.
-- Inputs:  pair_scores, pairs, prompts.
-- The lines between `each kept` and `end` are repeated for every column that the manifest keeps.
select
    pair_scores.*,
    prompts.prompt,
    pairs.split,
    pairs.annotator_id,
    pairs.strength,
    pairs.disagreement,
    -- each kept
    pairs.{kept},
    -- end
    if(pairs.image_0_uid = pair_scores.preferred_uid, pairs.image_0_model, pairs.image_1_model) as preferred_model,
    if(pairs.image_0_uid = pair_scores.preferred_uid, pairs.image_1_model, pairs.image_0_model) as rejected_model,
    case pairs.preference
        when 0 then pairs.image_0_uid <> pair_scores.preferred_uid
        when 1 then pairs.image_1_uid <> pair_scores.preferred_uid
    end as turned,
    pairs.source_file
from pair_scores
inner join pairs using (pair_id)
left join prompts on pair_scores.prompt_id = prompts.prompt_id
