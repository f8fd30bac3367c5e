-- Purpose: the pairs of the run that a ranking leaves out, as they are stored, each once with its reason.
-- Grain:   one pair of `pairs` that is not ranked.
-- Inputs:  not_ranked (pair_id, reason), reasons (reason, detail).
-- Parameters: $stage, the name of the stage.
select
    $stage as stage,
    not_ranked.pair_id,
    null::varchar as image_uid,
    not_ranked.reason,
    reasons.detail
from not_ranked
inner join reasons using (reason)
order by not_ranked.pair_id
