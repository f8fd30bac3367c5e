-- Purpose: what the limits of a selection count, for a stretch of the ranking.
-- Grain:   one ranked pair, in rank order.
-- Inputs:  ranked, eligible, pairs.
-- Parameters: $first and $last, the ranks of the stretch, both included.
-- The lines between `each annotator` and `end` stand only where annotators are limited.
with stretch as (
    select rank, pair_id
    from ranked
    where rank between $first and $last
)

select
    stretch.rank,
    eligible.prompt_id,
    eligible.preferred_uid,
    eligible.rejected_uid,
    -- each annotator
    pairs.{annotator},
    -- end
    null::varchar as none
from stretch
inner join eligible using (pair_id)
-- each annotator
inner join pairs using (pair_id)
-- end
order by stretch.rank
