-- Purpose: the prompts of the ranked pairs with one tower's embedding.
-- Grain:   one prompt of a ranked pair.
-- Inputs:  ranked, pair_scores, prompts.
-- The line between `each embedding` and `end` stands for the tower's column.
with used as (
    select distinct pair_scores.prompt_id
    from ranked
    inner join pair_scores using (pair_id)
)

select
    prompts.prompt_id,
    -- each embedding
    prompts.{embedding},
    -- end
from prompts
semi join used using (prompt_id)
order by prompts.prompt_id
