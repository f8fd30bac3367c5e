-- Purpose: the order of the pairs that take part: by quality, best first (worst first for $sign = -1), then by pair_id.
-- Grain:   one pair with a quality that no filter left out.
-- Inputs:  metric_result (pair_id, quality), left_out (pair_id, reason).
-- Parameters: $sign, 1 or -1.
select
    pair_id,
    quality,
    row_number() over (order by $sign * quality desc, pair_id) as rank
from metric_result
anti join left_out using (pair_id)
where quality is not null
