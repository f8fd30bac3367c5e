-- Purpose: what is wrong with a metric's result, if anything: the first fault found.
-- Grain:   at most one row.
-- Inputs:  metric_result (pair_id, quality), eligible.
with repeated as (
    select pair_id, 'more than once' as fault
    from metric_result
    group by pair_id
    having count(*) > 1
),

foreign_pairs as (
    select pair_id, 'though it is no eligible pair' as fault
    from metric_result
    anti join eligible using (pair_id)
),

not_finite as (
    select pair_id, 'with a quality that is not finite' as fault
    from metric_result
    where not isfinite(quality)
),

faults as (
    from repeated union all from foreign_pairs union all from not_finite
)

select pair_id, fault
from faults
order by fault, pair_id
limit 1
