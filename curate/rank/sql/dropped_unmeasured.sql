-- Purpose: eligible pairs to which the metric gave no quality.
-- Grain:   one eligible pair that no filter left out and that is not in `ranked`.
-- Inputs:  eligible, left_out (pair_id, reason), ranked.
select
    eligible.pair_id,
    'not_ranked' as reason
from eligible
anti join left_out using (pair_id)
anti join ranked on eligible.rowid = ranked.pair_number
