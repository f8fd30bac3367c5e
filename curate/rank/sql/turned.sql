-- Purpose: how many ranked pairs a human judged, too, and of how many of these the rule prefers the other image.
-- Grain:   one row.
-- Inputs:  ranked, eligible, pairs.
select
    count(pairs.preference) as judged,
    count(*) filter (
        where if(pairs.preference = 0, pairs.image_0_uid, pairs.image_1_uid) <> eligible.preferred_uid
    ) as turned
from ranked
inner join eligible on ranked.pair_number = eligible.rowid
inner join pairs using (pair_id)
where pairs.preference is not null
