-- Purpose: how many prompts a ranking has, and how many its selection keeps.
-- Grain:   one row.
-- Inputs:  the ranking whose view or file stands between `each ranking` and `end`.
with prompts as (
    -- each ranking
    select prompt_id, bool_or(selected) as selected
    from {ranking}
    -- end
    group by prompt_id
)

select
    count(*) as prompts,
    count(*) filter (where selected) as selected_prompts
from prompts
