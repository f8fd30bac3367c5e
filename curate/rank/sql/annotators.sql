-- Purpose: how often each annotator agrees with the calibrated score, drawn towards the mean of all by ten judgements,
--          so that few judgements say little: (agreed + 10 * mean) / (judgements + 10).
-- Grain:   one annotator of an eligible pair.
-- Inputs:  calibrated (pair_id, log_odds), pairs.
with judged as (
    select
        pairs.annotator_id,
        (calibrated.log_odds > 0)::integer + 0.5 * (calibrated.log_odds = 0)::integer as agreed
    from calibrated
    inner join pairs using (pair_id)
    where pairs.annotator_id is not null and calibrated.log_odds is not null
),

overall as (
    select avg(agreed) as mean_agreement
    from judged
)

select
    judged.annotator_id,
    count(*) as judgements,
    (sum(judged.agreed) + 10 * any_value(overall.mean_agreement)) / (count(*) + 10) as agreement
from judged
cross join overall
group by judged.annotator_id
