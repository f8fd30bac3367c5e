-- Purpose: what the limits of a selection count, for a stretch of the ranking.
-- Grain:   one ranked pair, in rank order.
-- Inputs:  ranked, eligible, pairs.
-- Parameters: $first and $last, the ranks of the stretch, both included.
-- The lines between `each image` and `end` stand only where images are limited, and are repeated for both sides; those
-- between `each annotator` and `end` only where annotators are.
with stretch as (
    select rank, pair_number
    from ranked
    where rank between $first and $last
)

select
    stretch.rank,
    eligible.prompt_id,
    -- each image
    eligible.{image},
    -- end
    -- each annotator
    pairs.{annotator},
    -- end
from stretch
inner join eligible on stretch.pair_number = eligible.rowid
-- each annotator
inner join pairs on eligible.pair_id = pairs.pair_id
-- end
order by stretch.rank
