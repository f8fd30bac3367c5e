-- Purpose: pairs that are not ranked because the annotator preferred neither side.
-- Grain:   one pair of `pairs` without a preference.
-- Inputs:  pairs.
select
    pair_id,
    'tie' as reason
from pairs
where preference is null
