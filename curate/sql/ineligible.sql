-- Purpose: why each other pair is not ranked, so that counts add up.
-- Grain:   one pair of `pairs` that is not in `eligible`.
-- Inputs:  pairs, eligible.
select
    pair_id,
    case when preference is null then 'tie' else 'image_dropped' end as reason
from pairs
anti join eligible using (pair_id)
order by pair_id
