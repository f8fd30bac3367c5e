-- Purpose: the pairs that take part in order: by quality, best first (worst first for $sign = -1), then by pair_id.
-- Grain:   one pair with a quality that no filter left out.
-- Inputs:  metric_result (pair_id, quality), left_out (pair_id, reason), eligible; pair_number is the pair's row there.
-- Parameters: $sign, 1 or -1.
-- A pair's rank is its row in the table that is made of this: numbering the rows here would take one thread only.
select
    eligible.rowid as pair_number,
    metric_result.quality
from metric_result
inner join eligible using (pair_id)
anti join left_out using (pair_id)
where metric_result.quality is not null
order by $sign * metric_result.quality desc, pair_id
