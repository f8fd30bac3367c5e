-- Purpose: how quality, each score and each margin are distributed, over all ranked pairs and the selected ones.
-- Grain:   one bin of one side of one quantity; empty bins too. `side` is preferred or rejected for scores, else ''.
-- Inputs:  report_ranking.
-- Parameters: $bins, equal bins between the least and the greatest value; both sides of a score share them.
-- The lines between `each scorer` and `end` are repeated for every scorer of the run.
-- `not materialized`: the long form has ten rows a pair, and is aggregated as it streams by.
with observed as not materialized (
    select 'quality' as quantity, '' as scorer, '' as side, quality as value, selected
    from report_ranking
    -- each scorer
    union all
    select 'score', '{scorer}', 'preferred', {scorer}_preferred, selected from report_ranking
    union all
    select 'score', '{scorer}', 'rejected', {scorer}_rejected, selected from report_ranking
    union all
    select 'margin', '{scorer}', '', {scorer}_margin, selected from report_ranking
    -- end
),

bounds as (
    select quantity, scorer, min(value) as lowest, max(value) as highest
    from observed
    group by quantity, scorer
),

binned as (
    select
        observed.quantity,
        observed.scorer,
        observed.side,
        least(
            floor(coalesce((value - lowest) / nullif(highest - lowest, 0), 0) * $bins), $bins - 1
        )::integer as bin,
        count(*) as pairs,
        count(*) filter (where selected) as selected_pairs
    from observed
    inner join bounds using (quantity, scorer)
    where value is not null
    group by 1, 2, 3, 4
),

grid as (
    select
        bounds.quantity,
        bounds.scorer,
        sides.side,
        bins.bin,
        lowest + (highest - lowest) * bins.bin / $bins as low,
        lowest + (highest - lowest) * (bins.bin + 1) / $bins as high
    from bounds
    inner join (values ('preferred'), ('rejected'), ('')) as sides (side)
        on (bounds.quantity = 'score') = (sides.side <> '')
    cross join (select range::integer as bin from range($bins)) as bins
    where lowest is not null
)

select
    grid.quantity,
    grid.scorer,
    grid.side,
    grid.low,
    grid.high,
    coalesce(binned.pairs, 0) as pairs,
    coalesce(binned.selected_pairs, 0) as selected_pairs
from grid
left join binned using (quantity, scorer, side, bin)
order by grid.quantity, grid.scorer, grid.side, grid.bin
