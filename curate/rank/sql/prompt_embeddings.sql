-- Purpose: the prompts of the source with one tower's embedding.
-- Grain:   one prompt.
-- Inputs:  prompts.
-- The line between `each embedding` and `end` stands for the tower's column.
select
    prompt_id,
    -- each embedding
    {embedding},
    -- end
from prompts
order by prompt_id
