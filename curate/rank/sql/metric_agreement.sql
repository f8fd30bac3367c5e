-- Purpose: how like two metrics are: Spearman's rank correlation over the pairs that both rank, and the share of
--          the one's top that the other's top of the same size holds.
-- Grain:   one row.
-- Inputs:  metric_result and other_result, each (pair_id, quality).
-- Parameters: $share, the fraction that is the top.
with own as (
    select
        pair_id,
        quality,
        row_number() over (order by quality desc, pair_id) as place,
        count(*) over () as pairs
    from metric_result
    where quality is not null
),

other as (
    select
        pair_id,
        quality,
        row_number() over (order by quality desc, pair_id) as place
    from other_result
    where quality is not null
),

-- Equal qualities share the mean of their ranks, as Spearman's correlation asks.
both_ranked as (
    select
        rank() over (order by own.quality) + (count(*) over (partition by own.quality) - 1) / 2 as own_rank,
        rank() over (order by other.quality) + (count(*) over (partition by other.quality) - 1) / 2 as other_rank,
        own.place,
        other.place as other_place,
        own.pairs
    from own
    inner join other using (pair_id)
),

top as (
    select greatest(1, round($share * count(*))) as size
    from own
)

select
    corr(own_rank, other_rank) as rank_correlation,
    count(*) filter (where place <= size and other_place <= size) / any_value(size) as shared
from both_ranked
cross join top
