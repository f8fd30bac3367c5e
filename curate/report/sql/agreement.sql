-- Purpose: how often each scorer agrees with the human, along the ranking.
-- Grain:   one scorer in one of $bins equal slices of the ranking, the worst first; empty slices are left out.
-- Inputs:  report_ranking.
-- Parameters: $bins.
-- Agreement is the share of pairs with a positive margin; a margin of 0 counts half.
-- The lines between `each scorer` and `end` are repeated for every scorer of the run.
with total as (
    select max(rank) as pairs
    from report_ranking
),

placed as not materialized (
    select
        ((total.pairs - rank) * $bins // total.pairs)::integer as slice,
        quality,
        selected,
        -- each scorer
        {scorer}_margin,
        -- end
    from report_ranking
    cross join total
),

sliced as (
    select
        slice,
        count(*) as pairs,
        count(*) filter (where selected) as selected_pairs,
        min(quality) as least_quality,
        -- each scorer
        avg((sign({scorer}_margin) + 1) / 2) as {scorer},
        -- end
    from placed
    group by slice
),

long as (
    select null::integer as slice, null::varchar as scorer, null::double as agreement where false
    -- each scorer
    union all
    select slice, '{scorer}', {scorer} from sliced
    -- end
)

select
    long.scorer,
    slice / $bins as low,
    (slice + 1) / $bins as high,
    sliced.pairs,
    sliced.selected_pairs,
    sliced.least_quality,
    long.agreement
from long
inner join sliced using (slice)
order by slice, long.scorer
