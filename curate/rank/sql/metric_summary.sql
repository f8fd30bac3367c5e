-- Purpose: the shape of a metric's result: how many pairs have a quality, its range, how many are tied.
-- Grain:   one row.
-- Inputs:  metric_result (pair_id, quality), eligible.
with by_quality as (
    select quality, count(*) as pairs
    from metric_result
    where quality is not null
    group by quality
)

select
    (select count(*) from eligible) as pairs,
    coalesce(sum(pairs), 0)::bigint as ranked,
    count(*) as distinct_values,
    coalesce(sum(pairs) filter (where pairs > 1), 0)::bigint as tied,
    min(quality) as least,
    max(quality) as greatest,
    (select median(quality) from metric_result) as median
from by_quality
