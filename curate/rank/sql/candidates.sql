-- Purpose: what the limits of a selection count, for the first pairs of the ranking.
-- Grain:   one ranked pair, in rank order.
-- Inputs:  ranked, eligible, pairs.
-- Parameters: $last, the rank of the last one.
-- The lines between `each image` and `end` stand only where images are limited, and are repeated for both sides; those
-- between `each annotator` and `end` only where annotators are.
with first as (
    select rank, pair_number
    from ranked
    where rank <= $last
)

select
    eligible.prompt_id,
    -- each image
    eligible.{image},
    -- end
    -- each annotator
    pairs.{annotator},
    -- end
from first
inner join eligible on first.pair_number = eligible.rowid
-- each annotator
inner join pairs on eligible.pair_id = pairs.pair_id
-- end
order by first.rank
