-- Purpose: what the limits of a selection count, for a stretch of the ranking.
-- Grain:   one ranked pair, in rank order.
-- Inputs:  ranked, pair_scores, pairs.
-- Parameters: $first and $last, the ranks of the stretch, both included.
with stretch as (
    select rank, pair_id
    from ranked
    where rank between $first and $last
)

select
    stretch.rank,
    pair_scores.prompt_id,
    pair_scores.preferred_uid,
    pair_scores.rejected_uid,
    pairs.annotator_id
from stretch
inner join pair_scores using (pair_id)
inner join pairs using (pair_id)
order by stretch.rank
