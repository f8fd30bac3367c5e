-- Purpose: the pairs of the run that a ranking leaves out, each once, with its reason.
-- Grain:   one pair of `pairs` that is not ranked.
-- Inputs:  ineligible, left_out (pair_id, reason), eligible, metric_result, reasons (reason, detail).
-- Parameters: $stage, the name of the stage.
with unranked as (
    select eligible.pair_id, 'not_ranked' as reason
    from eligible
    anti join left_out using (pair_id)
    anti join (select pair_id from metric_result where quality is not null) using (pair_id)
),

dropped as (
    select pair_id, reason from ineligible
    union all
    select pair_id, reason from left_out
    union all
    select pair_id, reason from unranked
)

select
    $stage as stage,
    dropped.pair_id,
    null::varchar as image_uid,
    dropped.reason,
    reasons.detail
from dropped
inner join reasons using (reason)
order by dropped.pair_id
